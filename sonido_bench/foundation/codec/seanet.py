"""SEANet (Tagliasacchi et al. 2020) as EnCodec has it (Défossez et al. 2022): strided convolutions about an LSTM.

Layers are numbered and named as in transformers' ``EncodecModel``, so that weights can be carried over by name.

Weights start so that a signal keeps its variance on its way. With torch's default a dozen convolutions quieten it a
thousandfold against their biases: the untrained decoder all but ignores the audio, and training has to find it first.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sonido_bench.foundation.codec.config import SEANetConfig

__all__ = ["Decoder", "Encoder"]

_ELU_GAIN = 1.25  # one over the root mean square of an ELU of standard normal values
_BRANCH_GAIN = 0.1 * _ELU_GAIN  # blocks start close to the identity
_LOUDNESS = 0.1  # root mean square of music in [-1, 1], roughly


def _start(conv: nn.Conv1d | nn.ConvTranspose1d, inputs: float, gain: float) -> None:
    """Draw weights for so many inputs of an output, before they are weight-normalised."""
    nn.init.normal_(conv.weight, std=gain * inputs**-0.5)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


class _Conv(nn.Module):
    """Weight-normalised convolution, padded with zeros on both sides: ``samples`` to ``samples / stride``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        gain: float = _ELU_GAIN,
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(inputs, outputs, kernel_size, stride, dilation=dilation)
        _start(conv, inputs * kernel_size, gain)
        self.conv = weight_norm(conv)
        self._padding = dilation * (kernel_size - 1) + 1 - stride

    def forward(self, signal: Tensor) -> Tensor:
        right = self._padding // 2
        padded: Tensor = self.conv(F.pad(signal, (self._padding - right, right)))
        return padded


class _TransposedConv(nn.Module):
    """Weight-normalised transposed convolution, trimmed on both sides: ``frames`` to ``frames * stride``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        conv = nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride)
        _start(conv, 2 * inputs, _ELU_GAIN)  # of its 2 * stride taps, two meet in a sample
        self.conv = weight_norm(conv)
        self._stride = stride

    def forward(self, signal: Tensor) -> Tensor:
        right = self._stride // 2
        left = self._stride - right
        upsampled: Tensor = self.conv(signal)
        return upsampled[..., left : upsampled.shape[-1] - right]


class _ResidualBlock(nn.Module):
    """A dilated convolution to fewer channels and one back, added to what came in."""

    def __init__(self, config: SEANetConfig, channels: int, dilation: int) -> None:
        super().__init__()
        hidden = channels // config.compress
        self.block = nn.Sequential(
            nn.ELU(),
            _Conv(channels, hidden, config.residual_kernel_size, dilation=dilation),
            nn.ELU(),
            _Conv(hidden, channels, 1, gain=_BRANCH_GAIN),
        )

    def forward(self, signal: Tensor) -> Tensor:
        out: Tensor = signal + self.block(signal)
        return out


class _LSTM(nn.Module):
    """An LSTM over the frames, added to what came in."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, signal: Tensor) -> Tensor:
        frames = signal.permute(2, 0, 1)
        output: Tensor = self.lstm(frames)[0]
        return (output + frames).permute(1, 2, 0)


def _residual_blocks(config: SEANetConfig, channels: int) -> list[nn.Module]:
    dilations = [config.dilation_base**index for index in range(config.residual_layers)]
    return [_ResidualBlock(config, channels, dilation) for dilation in dilations]


class Encoder(nn.Module):
    """Audio to latents; not causal.

    Args:
        config: Its size.
    """

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        self.hop_length = config.hop_length
        channels = config.filters
        layers: list[nn.Module] = [_Conv(1, channels, config.kernel_size, gain=_ELU_GAIN / _LOUDNESS)]
        for stride in reversed(config.ratios):
            layers += _residual_blocks(config, channels)
            layers += [nn.ELU(), _Conv(channels, 2 * channels, 2 * stride, stride)]
            channels *= 2
        layers += [_LSTM(channels, config.lstm_layers), nn.ELU()]
        layers += [_Conv(channels, config.dimension, config.last_kernel_size)]
        self.layers = nn.Sequential(*layers)

    def forward(self, audio: Tensor) -> Tensor:
        """Encode audio.

        Args:
            audio: ``(batch, samples)``, whole frames.

        Returns:
            ``(batch, dimension, frames)``.

        Raises:
            ValueError: If the audio has another shape, or is not a positive number of whole frames.
        """
        if audio.ndim != 2 or not audio.shape[1] or audio.shape[1] % self.hop_length:
            raise ValueError(
                f"expected audio (batch, samples) with samples a multiple of {self.hop_length}, "
                f"got {tuple(audio.shape)}: pad it with zeros"
            )
        latents: Tensor = self.layers(audio.unsqueeze(1))
        return latents


class Decoder(nn.Module):
    """Latents to audio, by the encoder's layers in reverse; its output is not bounded.

    Args:
        config: Its size.
    """

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        channels = config.filters * 2 ** len(config.ratios)
        layers: list[nn.Module] = [_Conv(config.dimension, channels, config.kernel_size)]
        layers += [_LSTM(channels, config.lstm_layers)]
        for stride in config.ratios:
            layers += [nn.ELU(), _TransposedConv(channels, channels // 2, stride)]
            channels //= 2
            layers += _residual_blocks(config, channels)
        layers += [nn.ELU(), _Conv(channels, 1, config.last_kernel_size, gain=_ELU_GAIN * _LOUDNESS)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode ``(batch, dimension, frames)`` to ``(batch, frames * hop_length)`` float32."""
        audio: Tensor = self.layers(latents)
        return audio.squeeze(1).to(torch.float32)
