"""What the autoencoder reads: the waveform of the paper, or a log-magnitude spectrogram on a musical scale."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.audio import power_spectrum, resample
from sonido_bench.errors import ConfigError
from sonido_bench.foundation.sonido.config import StageOneConfig

__all__ = ["FrontEnd", "LogFrequencyFrontEnd", "WaveformFrontEnd", "build_front_end"]

_FLOOR_DB = -70.0  # of silence, under a full-scale sine
_SHORTEST, _LONGEST = 0.09, 0.36  # seconds: windows are within a factor of the square root of 2 of these
_STD_FLOOR = 0.1  # nats: a bin that is always silent is not blown up


class FrontEnd(nn.Module, ABC):
    """Audio to what the autoencoder codes.

    Attributes:
        channels: Of its output.
        hop_length: Samples of one of its frames.
        reach: Samples before and after a frame's span that the frame depends on.
    """

    channels: int
    hop_length: int
    reach: int

    @abstractmethod
    def fit(self, audio: Sequence[Tensor]) -> None:
        """Take statistics from batches of audio ``(batch, samples)``, where the front end has any."""

    @abstractmethod
    def forward(self, audio: Tensor) -> Tensor:
        """Map ``(batch, samples)`` to ``(batch, channels, samples // hop_length)``."""


class WaveformFrontEnd(FrontEnd):
    """The samples themselves, one channel."""

    channels, hop_length, reach = 1, 1, 0

    def fit(self, audio: Sequence[Tensor]) -> None:
        """Do nothing: samples are coded as they are."""

    def forward(self, audio: Tensor) -> Tensor:
        """Map ``(batch, samples)`` to ``(batch, 1, samples)``."""
        return audio.unsqueeze(1)


class LogFrequencyFrontEnd(FrontEnd):
    """Log power in bins at equal musical distances, each standardised by what ``fit`` has seen.

    Low octaves are seen through long windows and high ones through short ones: a window is as long as it takes to
    tell neighbouring bins of its lowest octave apart, within 0.09 to 0.36 s. Octaves far below half the sample rate
    are computed from decimated audio, which is what makes it fast. A bin is a triangle that reaches to the centres
    of its neighbours, or to the neighbouring frequencies of the Fourier transform where those lie farther apart.

    Args:
        sample_rate: In Hz.
        hop_length: In samples, even. Frame ``i`` is centred at ``(i + 0.5) * hop_length``, so coarser frames are
            averages of whole finer ones.
        bins_per_octave: 24: quarter tones.
        octaves: Their number.
        f_min: Centre of the lowest bin, in Hz.

    Raises:
        ConfigError: If the bins reach beyond half the sample rate, or the hop is odd.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, sample_rate: int, hop_length: int, bins_per_octave: int = 24, octaves: int = 8, f_min: float = 27.5
    ) -> None:
        super().__init__()
        top = f_min * 2**octaves
        if not 0 < top <= sample_rate / 2 or hop_length % 2:
            raise ConfigError(
                f"log-frequency front end: expected {octaves} octaves above {f_min:g} Hz to end below half the sample "
                f"rate and an even hop, got {top:g} Hz at {sample_rate} Hz, hop {hop_length}"
            )
        self.hop_length, self.channels = hop_length, bins_per_octave * octaves
        self.transforms = nn.ModuleList(
            _Resolution(sample_rate, hop_length, bins_per_octave, first, last, f_min, n_fft)
            for first, last, n_fft in _resolutions(sample_rate, bins_per_octave, octaves, f_min)
        )
        self.reach = max(transform.reach for transform in self.transforms if isinstance(transform, _Resolution))
        self.register_buffer("mean", torch.zeros(self.channels, 1))
        self.register_buffer("std", torch.ones(self.channels, 1))

    def log_power(self, audio: Tensor) -> Tensor:
        """Return ``ln(power + floor)``, not standardised.

        Args:
            audio: ``(batch, samples)`` float32, a multiple of the hop.

        Returns:
            ``(batch, channels, samples // hop_length)`` float32; a full-scale sine gives about 0 in its bin, silence
            -70 dB in nats.

        Raises:
            ValueError: If the audio has another shape.
        """
        if audio.ndim != 2 or audio.shape[1] == 0 or audio.shape[1] % self.hop_length:
            raise ValueError(f"expected (batch, samples), samples a multiple of {self.hop_length}, got {audio.shape}")
        with torch.autocast(audio.device.type, enabled=False):
            # half a hop of silence in front, and then without the first frame: centres at (i + 0.5) * hop
            padded = F.pad(audio.float(), (self.hop_length // 2, 0))
            power = torch.cat([transform(padded)[:, 1:] for transform in self.transforms], dim=2)
            return (power + 10 ** (_FLOOR_DB / 10)).log().transpose(1, 2)

    @torch.no_grad()
    def fit(self, audio: Sequence[Tensor]) -> None:
        """Set each bin's mean and standard deviation to those of batches of audio ``(batch, samples)``."""
        frames = torch.cat([self.log_power(batch).transpose(0, 1).flatten(1) for batch in audio], dim=1)
        self.mean.copy_(frames.mean(dim=1, keepdim=True))
        self.std.copy_(frames.std(dim=1, keepdim=True, correction=0).clamp(min=_STD_FLOOR))

    def forward(self, audio: Tensor) -> Tensor:
        """Return standardised log power: ``(batch, samples)`` to ``(batch, channels, samples // hop_length)``."""
        return (self.log_power(audio) - self.mean) / self.std

    def in_nats(self, standardised: Tensor) -> Tensor:
        """Undo the standardisation: ``(..., channels, frames)`` to log power as ``log_power`` gives it."""
        return standardised * self.std + self.mean


class _Resolution(nn.Module):
    """Bins of neighbouring octaves that share a window length."""

    window: Tensor
    filters: Tensor

    def __init__(
        self, sample_rate: int, hop_length: int, bins_per_octave: int, first: int, last: int, f_min: float, n_fft: int
    ) -> None:
        super().__init__()
        self.decimation = 1
        while _decimates(2 * self.decimation, sample_rate, hop_length, n_fft, f_min * 2**last):
            self.decimation *= 2
        self.hop_length, n_fft = hop_length // self.decimation, n_fft // self.decimation
        self.reach = (n_fft // 2 + 8) * self.decimation  # 8: half of the decimation filter
        spacing = sample_rate / self.decimation / n_fft
        bins = torch.arange(first * bins_per_octave, last * bins_per_octave, dtype=torch.float64, device="cpu")
        centres = f_min * 2 ** (bins / bins_per_octave)
        widths = (centres * (2 ** (1 / bins_per_octave) - 1)).clamp(min=spacing)
        distances = (torch.arange(n_fft // 2 + 1, device="cpu").unsqueeze(1) * spacing - centres).abs()
        # only the part of the spectrum that a filter touches is multiplied
        filters = (1 - distances / widths).clamp(min=0).float()
        touched = filters.amax(dim=1).nonzero()
        self.low, self.high = int(touched[0]), int(touched[-1]) + 1
        self.register_buffer("filters", filters[self.low : self.high].contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Map ``(batch, samples)`` to power ``(batch, frames, bins)``, frame ``i`` centred at ``i`` hops."""
        power = power_spectrum(resample(audio, self.decimation, 1), self.window, self.hop_length)
        return power[:, :, self.low : self.high] @ self.filters


def _resolutions(sample_rate: int, bins_per_octave: int, octaves: int, f_min: float) -> list[tuple[int, int, int]]:
    """Group octaves by window: ``(first octave, one past the last, n_fft)``, low to high."""
    groups: list[tuple[int, int, int]] = []
    for octave in range(octaves):
        bin_width = f_min * 2**octave * (2 ** (1 / bins_per_octave) - 1)
        seconds = min(max(2 / bin_width, _SHORTEST), _LONGEST)
        n_fft = 2 ** round(math.log2(seconds * sample_rate))
        if groups and groups[-1][2] == n_fft:
            groups[-1] = (groups[-1][0], octave + 1, n_fft)
        else:
            groups.append((octave, octave + 1, n_fft))
    return groups


def _decimates(factor: int, sample_rate: int, hop_length: int, n_fft: int, highest: float) -> bool:
    """Whether audio may be decimated: hop and window stay whole, and the bins lie below a quarter of the new rate."""
    return hop_length % factor == 0 and n_fft % (2 * factor) == 0 and highest <= sample_rate / factor / 4


def build_front_end(config: StageOneConfig) -> FrontEnd:
    """Return the front end of a configuration, not fitted.

    Raises:
        ConfigError: If it cannot be built.
    """
    chosen = config.front_end
    if chosen.kind == "waveform":
        if chosen.hop_length != 1 or config.bands != 1:
            raise ConfigError(f"front end waveform: expected hop 1 and 1 band, got {chosen.hop_length}, {config.bands}")
        return WaveformFrontEnd()
    return LogFrequencyFrontEnd(
        config.sample_rate, chosen.hop_length, chosen.bins_per_octave, chosen.octaves, chosen.f_min
    )
