"""The short-time Fourier transform of the separation networks, and where its frames lie."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sonido_bench.features.spec import FrameGrid

__all__ = ["STFT"]


@dataclass(frozen=True)
class STFT:
    """Short-time Fourier transform with a periodic Hann window, not normalised (open-unmix, transforms.py).

    Attributes:
        n_fft: Length of window and transform, in samples.
        hop_length: Samples from one frame to the next.
        sample_rate: In Hz.
        centred: Whether frame ``i`` is centred at sample ``i * hop_length`` of audio whose edges are reflected. Else it
            begins there, all frames lie within the audio, and there is no inverse.
    """

    n_fft: int
    hop_length: int
    sample_rate: int
    centred: bool

    @property
    def bins(self) -> int:
        """Frequencies of a frame, from 0 to half the sample rate."""
        return self.n_fft // 2 + 1

    @property
    def grid(self) -> FrameGrid:
        """Where the frames lie in time."""
        first = 0.0 if self.centred else self.n_fft / 2 / self.sample_rate
        return FrameGrid(self.sample_rate / self.hop_length, first)

    @property
    def min_samples(self) -> int:
        """The shortest audio that has a frame."""
        return self.n_fft // 2 + 1 if self.centred else self.n_fft

    def frames(self, samples: int) -> int:
        """Return how many frames so many samples have."""
        return 1 + (samples if self.centred else samples - self.n_fft) // self.hop_length

    def __call__(self, audio: Tensor) -> Tensor:
        """Transform.

        Args:
            audio: ``(..., samples)``, real.

        Returns:
            ``(..., bins, frames)``, complex.

        Raises:
            ValueError: If the audio is shorter than ``min_samples``.
        """
        samples = audio.shape[-1]
        if samples < self.min_samples:
            raise ValueError(f"expected at least {self.min_samples} samples, got {samples}; pad the audio")
        window = torch.hann_window(self.n_fft, dtype=audio.dtype, device=audio.device)
        spectrum = torch.stft(
            audio.reshape(-1, samples),
            self.n_fft,
            self.hop_length,
            window=window,
            center=self.centred,
            pad_mode="reflect",
            return_complex=True,
        )
        return spectrum.reshape(*audio.shape[:-1], *spectrum.shape[1:])

    def inverse(self, spectrum: Tensor, samples: int) -> Tensor:
        """Undo the transform of centred frames.

        Args:
            spectrum: ``(..., bins, frames)``, complex.
            samples: Length of the audio.

        Returns:
            ``(..., samples)``.

        Raises:
            ValueError: If the frames are not centred: the window ends at zero, so that the edges would be lost.
        """
        if not self.centred:
            raise ValueError("expected centred frames, these are not; use a transform with centred=True")
        window = torch.hann_window(self.n_fft, dtype=spectrum.real.dtype, device=spectrum.device)
        rows = spectrum.reshape(-1, *spectrum.shape[-2:])
        audio = torch.istft(rows, self.n_fft, self.hop_length, window=window, length=samples)
        return audio.reshape(*spectrum.shape[:-2], samples)
