"""From the spectrogram that codes give to a waveform."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.sonido.config import WaveformDecoderConfig
from sonido_bench.foundation.sonido.objective import multi_resolution_stft_loss

__all__ = ["WaveformDecoder"]

_AMPLITUDE_WEIGHT = 0.1  # of the L1 loss: the codes do not hold the phase, so it says little
_MAX_LOG_MAGNITUDE = 7.0  # of a bin: keeps the exponential finite before training


class WaveformDecoder(nn.Module):
    """Frames to audio: residual convolutions, then the inverse short-time Fourier transform.

    The design of Vocos (Siuzdak 2023): all layers run at the frame rate, and the last one tells magnitude and phase of
    every frequency bin. It makes no part of the features.

    Args:
        config: Its size.
        channels: Of the spectrogram.
        hop_length: Samples from one frame to the next.

    Attributes:
        reach: Samples, at most, between a frame's span and what it changes.

    Raises:
        ConfigError: If the frames would leave gaps, or cannot be centred on their hops.
    """

    window: Tensor

    def __init__(self, config: WaveformDecoderConfig, channels: int, hop_length: int) -> None:
        super().__init__()
        if config.n_fft < 2 * hop_length or (config.n_fft - hop_length) % 2:
            raise ConfigError(
                f"waveform decoder: expected n_fft of at least two hops of {hop_length} samples and an even rest, "
                f"got {config.n_fft}"
            )
        self.n_fft, self.hop_length = config.n_fft, hop_length
        self.reach = 3 * (1 + config.depth) * hop_length + config.n_fft
        self.input = nn.Conv1d(channels, config.width, kernel_size=7, padding=3)
        self.blocks = nn.Sequential(*(_Block(config.width) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, config.n_fft + 2)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Return the audio of a spectrogram.

        Args:
            spectrogram: ``(batch, channels, frames)``; frame ``i`` is centred at sample ``(i + 0.5) * hop_length``.

        Returns:
            ``(batch, frames * hop_length)`` float32.
        """
        hidden = self.norm(self.blocks(self.input(spectrogram)).transpose(1, 2))
        log_magnitude, phase = self.output(hidden).float().chunk(2, dim=-1)
        magnitude = log_magnitude.clamp(max=_MAX_LOG_MAGNITUDE).exp()
        return self._synthesise(torch.polar(magnitude, phase))

    def loss(self, spectrogram: Tensor, audio: Tensor) -> Tensor:
        """Return how far the decoded spectrogram is from the audio that it was made of.

        Args:
            spectrogram: ``(batch, channels, frames)``.
            audio: ``(batch, frames * hop_length)``.
        """
        found: Tensor = self(spectrogram)
        return multi_resolution_stft_loss(audio, found) + _AMPLITUDE_WEIGHT * F.l1_loss(found, audio.float())

    def _synthesise(self, spectrum: Tensor) -> Tensor:
        """Overlap-add ``(batch, frames, bins)``, windowed twice and divided by what the windows sum to."""
        with torch.autocast(spectrum.device.type, enabled=False):
            frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
            weights = self.window.square().expand(1, frames.shape[1], -1)
            return self._overlap_add(frames) / self._overlap_add(weights).clamp_min(1e-8)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Sum ``(batch, frames, n_fft)`` at their places: ``(batch, frames * hop_length)``."""
        length = (frames.shape[1] - 1) * self.hop_length + self.n_fft
        summed: Tensor = F.fold(frames.transpose(1, 2), (1, length), (1, self.n_fft), stride=(1, self.hop_length))
        margin = (self.n_fft - self.hop_length) // 2
        return summed[:, 0, 0, margin : length - margin]


class _Block(nn.Module):
    """A ConvNeXt block (Liu et al. 2022) over time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``(batch, width, frames)`` to the same shape."""
        branch: Tensor = self.pointwise(self.norm(self.depthwise(hidden).transpose(1, 2)))
        return hidden + branch.transpose(1, 2)
