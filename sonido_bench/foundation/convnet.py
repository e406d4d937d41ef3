"""A small convolutional network with random weights: what an architecture gives without learning."""

import torch
from torch import Tensor, nn

from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec
from sonido_bench.foundation.logmel import LogMel

__all__ = ["ConvNet"]

_TIME_STRIDES = (2, 2, 2, 1)  # 43 Hz log-mel frames to 5.4 Hz


class ConvNet(Extractor):
    """Four 2-D convolutions over the log-mel spectrogram, then mean and maximum over frequency.

    It is never trained: its features are those of its initial weights, drawn from a seed.

    Args:
        weights_seed: Of the weights.
        sample_rate: In Hz.
        channels: Of each convolution, multiples of 4; a frame is twice as wide as the last.
    """

    card = ExtractorCard(
        name="convnet",
        description="Untrained convolutional network on log-mel, a control.",
        code_licence="Apache-2.0",
        weights_licence="none",
        citation="Pons and Serra (2019), Randomly weighted CNNs for (music) audio classification.",
    )

    def __init__(
        self, weights_seed: int = 0, sample_rate: int = 22050, channels: tuple[int, int, int, int] = (16, 32, 64, 64)
    ) -> None:
        super().__init__()
        torch.default_generator.manual_seed(weights_seed)  # of the CPU alone; the base class restores it
        self.front_end = LogMel(sample_rate)
        self.layers = nn.Sequential()
        for inputs, outputs, stride in zip((1, *channels), channels, _TIME_STRIDES, strict=False):
            self.layers.append(nn.Conv2d(inputs, outputs, kernel_size=3, stride=(stride, 2), padding=1))
            self.layers.append(FrameNorm(4, outputs))
            self.layers.append(nn.GELU())
        self.spec = FeatureSpec(sample_rate, {"conv": StreamSpec(2 * channels[-1], 512 * 8)})

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Return the stream ``conv`` of ``(batch, samples)``; frames are centred at whole hops, as the STFT's."""
        hidden = self.layers(self.front_end(audio)["logmel"].unsqueeze(1))  # (batch, channels, frames, bands)
        return {"conv": torch.cat([hidden.mean(dim=3), hidden.amax(dim=3)], dim=1).transpose(1, 2)}


class FrameNorm(nn.GroupNorm):
    """Group normalisation of each frame by itself, so that a frame does not depend on the length of the audio."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(batch, channels, frames, bands)`` over groups of channels and all bands."""
        batch, frames = input.shape[0], input.shape[2]
        normalised = super().forward(input.transpose(1, 2).flatten(0, 1))
        return normalised.view(batch, frames, *normalised.shape[1:]).transpose(1, 2)
