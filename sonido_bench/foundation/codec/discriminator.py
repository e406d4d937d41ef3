"""Adversary of the codec: convolutions over complex spectrograms at several resolutions (EnCodec, section 3.4)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["Judgement", "MultiScaleSTFTDiscriminator", "adversarial_loss", "discriminator_loss", "feature_loss"]

_SLOPE = 0.3
_DILATIONS = (1, 2, 4)


class Judgement(NamedTuple):
    """What the discriminator says of audio.

    Attributes:
        scores: Of each resolution, ``(batch, 1, frames, bins)``: high where the audio sounds real.
        features: Of each resolution's layers, ``(batch, channels, frames, bins)`` each.
    """

    scores: list[Tensor]
    features: list[list[Tensor]]


class _Resolution(nn.Module):
    """One resolution: time is dilated, frequency is strided."""

    window: Tensor

    def __init__(self, n_fft: int, filters: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        layers = [_conv(2, filters, (3, 9))]
        layers += [_conv(filters, filters, (3, 9), stride=2, dilation=dilation) for dilation in _DILATIONS]
        layers += [_conv(filters, filters, (3, 3))]
        self.layers = nn.ModuleList(layers)
        self.score = _conv(filters, 1, (3, 3))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        hidden, features = self._spectrogram(audio), []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), _SLOPE)
            features.append(hidden)
        return self.score(hidden), features

    def _spectrogram(self, audio: Tensor) -> Tensor:
        """Return real and imaginary parts as channels, ``(batch, 2, frames, bins)``; in float32."""
        n_fft = len(self.window)
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(),
                n_fft,
                n_fft // 4,
                window=self.window,
                pad_mode="constant",
                return_complex=True,
            )
            scaled = torch.view_as_real(spectrum) / self.window.square().sum().sqrt()
        return scaled.permute(0, 3, 2, 1)


class MultiScaleSTFTDiscriminator(nn.Module):
    """MS-STFT-D of EnCodec: the same small network on several complex spectrograms.

    Args:
        n_ffts: Window lengths in samples; hops are a quarter.
        filters: Channels of all layers.
    """

    def __init__(self, n_ffts: tuple[int, ...] = (1024, 2048, 512, 256, 128), filters: int = 32) -> None:
        super().__init__()
        self.resolutions = nn.ModuleList(_Resolution(n_fft, filters) for n_fft in n_ffts)

    def forward(self, audio: Tensor) -> Judgement:
        """Judge ``(batch, samples)``."""
        pairs = [resolution(audio) for resolution in self.resolutions]
        return Judgement([score for score, _ in pairs], [features for _, features in pairs])


def _conv(inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, dilation: int = 1) -> nn.Module:
    """Make a convolution over frames and bins that keeps the frames, and divides the bins by its stride."""
    padding = (dilation * (kernel[0] // 2), kernel[1] // 2)
    conv: nn.Module = weight_norm(nn.Conv2d(inputs, outputs, kernel, (1, stride), padding, (dilation, 1)))
    return conv


def discriminator_loss(real: Judgement, fake: Judgement) -> Tensor:
    """Return what the discriminator minimises: ``max(0, 1 - D(real)) + max(0, 1 + D(fake))``, of each resolution."""
    losses = [
        F.relu(1 - wanted).mean() + F.relu(1 + found).mean()
        for wanted, found in zip(real.scores, fake.scores, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(fake: Judgement) -> Tensor:
    """Return what the codec minimises: ``-D(fake)``, averaged over resolutions."""
    return -torch.stack([score.mean() for score in fake.scores]).mean()


def feature_loss(real: Judgement, fake: Judgement) -> Tensor:
    """Return the mean absolute difference of all layers' features, the same weight for each layer.

    Not divided by the features' own size, in which EnCodec's code differs from its paper. The real side is detached.
    """
    losses = [
        F.l1_loss(found, wanted.detach())
        for layers, found_layers in zip(real.features, fake.features, strict=True)
        for wanted, found in zip(layers, found_layers, strict=True)
    ]
    return torch.stack(losses).mean()
