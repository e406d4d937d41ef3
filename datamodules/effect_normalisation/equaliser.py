"""A stem's spectrum brought to that of a training set's average stem."""

import numpy as np
from scipy import ndimage, signal

from sonido_bench.datamodules.effect_normalisation.short_time import short_time_transform

__all__ = ["GRID", "match_spectrum", "mean_spectrum"]

_N_FFT, _HOP = 65_536, 16_384
_CHUNK = 16  # frames that are transformed at once: 4 minutes of stereo in one go would take 700 MB

GRID = 1025
"""Frequencies of a spectrum, equally spaced from 0 to half the sample rate: what the equaliser's filter resolves."""

_TAPS = 1001
_MOST_DB = 30.0  # a band that a stem lacks is not filled with its noise
_LEAST = 1e-5  # of the spectrum's peak: what a band at least has


def mean_spectrum(audio: np.ndarray, smoothing_bins: int) -> np.ndarray:
    """Return the magnitude spectrum, averaged over frames, channels and neighbouring bins.

    Frames of 65,536 samples whose centres lie within the stem, which is continued by zeros.

    Args:
        audio: ``(2, samples)``.
        smoothing_bins: Of the transform, odd. A moving average is what the published Savitzky-Golay filter of order 1
            comes to.

    Returns:
        ``(1025,)`` float64.
    """
    samples = audio.shape[1]
    audio = np.pad(audio, ((0, 0), (0, max(0, _N_FFT - samples))))
    transform = short_time_transform(_N_FFT, _HOP)
    frames = -(-samples // _HOP)
    total = np.zeros(_N_FFT // 2 + 1)
    for start in range(0, frames, _CHUNK):
        total += np.abs(transform.stft(audio, start, min(start + _CHUNK, frames))).sum(axis=(0, 2), dtype=np.float64)
    smooth = ndimage.uniform_filter1d(total / (2 * frames), smoothing_bins, mode="mirror")
    spectrum: np.ndarray = smooth[:: _N_FFT // 2 // (GRID - 1)]
    return spectrum


def match_spectrum(audio: np.ndarray, reference: np.ndarray, smoothing_bins: int) -> np.ndarray:
    """Filter a stem so that its mean spectrum comes near the reference; both channels alike, without delay.

    The filter's gain is the root of what is wanted and it is applied forward and backward, here in one convolution.
    At most 30 dB are added or taken.

    Args:
        audio: ``(2, samples)`` float32, as loud as what the reference was measured on.
        reference: As :func:`mean_spectrum` returns.
        smoothing_bins: As there.

    Returns:
        The same shape.
    """
    own = mean_spectrum(audio, smoothing_bins)
    least = _LEAST * max(reference.max(), own.max())
    gain_db = 20 * np.log10(np.maximum(reference, least) / np.maximum(own, least))
    root = 10 ** (np.clip(gain_db, -_MOST_DB, _MOST_DB) / 40)
    taps = signal.firwin2(_TAPS, np.linspace(0, 1, GRID), root)
    both_ways = np.convolve(taps, taps[::-1]).astype(np.float32)
    filtered: np.ndarray = signal.oaconvolve(audio, both_ways[None], mode="same", axes=1)
    return filtered.astype(np.float32, copy=False)
