"""The short-time Fourier transform of the published normalisation: roots of Hann windows, not normalised."""

from functools import lru_cache

import numpy as np
from scipy import signal

__all__ = ["short_time_transform"]


@lru_cache(maxsize=4)
def short_time_transform(n_fft: int, hop: int) -> signal.ShortTimeFFT:
    """Return the transform; frame ``i`` is centred at sample ``i * hop``.

    Args:
        n_fft: Samples of a frame.
        hop: Samples from frame to frame.
    """
    window = np.sqrt(signal.windows.hann(n_fft, sym=False)).astype(np.float32)
    return signal.ShortTimeFFT(window, hop, fs=1.0, fft_mode="onesided")
