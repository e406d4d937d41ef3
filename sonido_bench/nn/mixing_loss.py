"""Losses of a stereo mix that do not care which channel is which."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["StereoLoss", "weighting_filter"]

_FLOOR = 1e-7
"""Added to magnitudes before the logarithm; the original's 1e-30 makes gradients of 1e30 and is zero in half floats."""

_FAINT = 1e-3
"""Least norm of the sum or the difference, as a share of the louder one: a mono reference has no difference at all."""

_BLOCK = 128
"""Samples that are filtered at a time, each by a shifted copy of the filter: a tenth of the time of a convolution of
one channel on a CPU, forward and backward, for the same sums."""

# Corner frequencies of the A-weighting in Hz, two poles each at the outer ones (IEC 61672-1).
_A_POLES_HZ = (20.598997, 20.598997, 107.65265, 737.86223, 12194.217, 12194.217)
_A_GAIN_DB = 1.9997  # makes the gain at 1 kHz one


class StereoLoss(nn.Module):
    """Distance of the spectra of L + R and of L - R, after A-weighting and a low-pass.

    Magnitudes of both are the same when channels are swapped, so that a mix that is panned the other way round is as
    good: FxNorm-automix's losses (``common_losses.py``), which add over sum and difference

    - ``convergence`` (La): |Y - Z| / |Y|, Frobenius norms of magnitudes Y of the reference and Z of the estimate over
      the whole batch, and mean |log Y - log Z|;
    - ``squared`` (Lb, the one of its best networks): mean (Y - Z)^2, and mean |log Y - log Z|.

    Everything is computed in float32, whatever the inputs are and whatever autocast says.

    Args:
        distance: The first term.
        sample_rate: Of the audio, in Hz.
        n_fft: Samples of a frame; the window is the root of a periodic Hann window.
        hop_length: Samples from frame to frame.
        guard_frames: Frames that are left out at both ends, where a network misses context; 30 as published.

    Raises:
        ValueError: If an argument is out of range.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        distance: Literal["convergence", "squared"] = "squared",
        sample_rate: int = 44_100,
        n_fft: int = 4096,
        hop_length: int = 1024,
        guard_frames: int = 0,
    ) -> None:
        super().__init__()
        if distance not in ("convergence", "squared"):
            raise ValueError(f"expected the distance convergence or squared, got {distance!r}")
        if min(n_fft, hop_length) < 1 or guard_frames < 0:
            raise ValueError(
                "expected positive n_fft and hop_length and guard_frames of at least 0, got "
                f"{n_fft}, {hop_length} and {guard_frames}"
            )
        self.distance = distance
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.guard_frames = guard_frames
        self.register_buffer("window", torch.hann_window(n_fft).sqrt(), persistent=False)
        taps = torch.from_numpy(weighting_filter(sample_rate)).float()
        shifted = [F.pad(taps, (shift, _BLOCK - 1 - shift)) for shift in range(_BLOCK)]
        self.register_buffer("filters", torch.stack(shifted).unsqueeze(1), persistent=False)

    @property
    def least_samples(self) -> int:
        """Samples that a segment must have, so that one frame is left between the guards."""
        return self.n_fft + 2 * self.guard_frames * self.hop_length

    def forward(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """Compare mixes.

        Args:
            reference: ``(batch, 2, samples)``.
            estimate: The same shape.

        Returns:
            A scalar of at least 0, float32; 0 for equal mixes.

        Raises:
            ValueError: If shapes differ or are others, or the segment is too short.
        """
        if reference.shape != estimate.shape or reference.ndim != 3 or reference.shape[1] != 2:
            raise ValueError(
                "expected a reference and an estimate of shape (batch, 2, samples), got "
                f"{tuple(reference.shape)} and {tuple(estimate.shape)}"
            )
        if reference.shape[-1] < self.least_samples:
            raise ValueError(
                f"expected at least {self.least_samples} samples, got {reference.shape[-1]}; "
                "take longer segments, a shorter n_fft or fewer guard_frames"
            )
        with torch.autocast(reference.device.type, enabled=False):
            wanted, found = self._magnitudes(reference.float()), self._magnitudes(estimate.float())
            logarithmic = (torch.log(wanted + _FLOOR) - torch.log(found + _FLOOR)).abs().mean(dim=(1, 2, 3))
            if self.distance == "squared":
                return ((wanted - found).square().mean(dim=(1, 2, 3)) + logarithmic).sum()
            norms = _norm(wanted)
            least = (_FAINT * norms.max()).clamp_min(_FLOOR)
            return (_norm(wanted - found) / norms.clamp_min(least) + logarithmic).sum()

    def _magnitudes(self, audio: Tensor) -> Tensor:
        """Return the magnitudes of sum and difference, ``(2, batch, bins, frames)``."""
        left, right = audio.unbind(dim=1)
        signals = torch.stack([left + right, left - right]).flatten(0, 1)
        spectra = torch.stft(
            self._filter(signals), self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True
        )
        last = spectra.shape[-1] - self.guard_frames
        magnitudes = spectra[..., self.guard_frames : last].abs()
        return magnitudes.reshape(2, len(audio), *magnitudes.shape[1:])

    def _filter(self, signals: Tensor) -> Tensor:
        """Weight ``(signals, samples)``; as if silence were on both sides."""
        samples = signals.shape[-1]
        margin = (self.filters.shape[-1] - _BLOCK) // 2
        padded = F.pad(signals, (margin, margin + -samples % _BLOCK)).unsqueeze(1)
        blocks = F.conv1d(padded, self.filters, stride=_BLOCK)  # (signals, sample of the block, block)
        return blocks.transpose(1, 2).flatten(1)[:, :samples]


def weighting_filter(sample_rate: int, taps: int = 101, low_pass: float = 0.85) -> NDArray[np.float64]:
    """Return the filter that both mixes pass before they are compared.

    A least-squares fit to the A-weighting (as the bilinear transform gives it, so zero at half the sample rate),
    followed by ``x[n] + low_pass * x[n + 1]``, in one.

    Args:
        sample_rate: In Hz.
        taps: Of the A-weighting, odd. 101 taps cannot follow it below some 500 Hz at 44.1 kHz, which is published so.
        low_pass: Weight of the neighbouring sample.

    Returns:
        ``(taps + 2,)``, the last one 0: an odd number of taps keeps the length of what it filters.

    Raises:
        ValueError: If ``taps`` is even.
    """
    if taps < 1 or taps % 2 == 0:
        raise ValueError(f"expected an odd number of taps, got {taps}")
    highest = 2 * np.pi * _A_POLES_HZ[-1]
    poles = -2 * np.pi * np.array(_A_POLES_HZ)
    digital = signal.bilinear_zpk(np.zeros(4), poles, highest**2 * 10 ** (_A_GAIN_DB / 20), fs=sample_rate)
    frequencies, response = signal.freqz_zpk(*digital, worN=512, fs=sample_rate)
    fitted = signal.firls(taps, frequencies, np.abs(response), fs=sample_rate)
    combined: NDArray[np.float64] = np.convolve(fitted, [1.0, low_pass, 0.0])
    return combined


def _norm(values: Tensor) -> Tensor:
    """Frobenius norm of each of the first axis; its gradient at zero is zero, not NaN."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=(1, 2, 3))
    return norms
