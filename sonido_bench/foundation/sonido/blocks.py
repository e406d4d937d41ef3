"""Convolutions of the autoencoder; with several bands, mixing in time stays within a band, and 1x1 mixes the bands."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import ConfigError

__all__ = ["Downsample", "ResidualBlock", "Upsample", "conv", "unit_power_start"]

_DILATIONS = (1, 3, 9, 27)  # in turn, as in Jukebox
_SILENCE = 1e-8


def conv(channels_in: int, channels_out: int, kernel: int = 1, bands: int = 1, dilation: int = 1) -> nn.Conv1d:
    """Return a convolution that keeps the length; ``kernel`` is odd.

    Raises:
        ConfigError: If the channels do not divide into the bands.
    """
    if channels_in % bands or channels_out % bands:
        raise ConfigError(f"widths must be multiples of the {bands} bands, got {channels_in} and {channels_out}")
    padding = dilation * (kernel // 2)
    return nn.Conv1d(channels_in, channels_out, kernel, padding=padding, dilation=dilation, groups=bands)


class ResidualBlock(nn.Module):
    """Dilated convolution within bands, then 1x1 across them, around a skip connection (as Jukebox's).

    The 1x1 starts from zero, and with it the block as the identity.

    Args:
        width: Channels.
        bands: Parts of the channels that are not mixed in time.
        index: Place in a row of blocks, which sets the dilation: 1, 3, 9, 27, 1 ...

    Attributes:
        reach: Frames before and after that an output frame sees.
    """

    def __init__(self, width: int, bands: int = 1, index: int = 0) -> None:
        super().__init__()
        self.reach = _DILATIONS[index % len(_DILATIONS)]
        self.within = conv(width, width, 3, bands, self.reach)
        self.across = conv(width, width)
        for parameter in self.across.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``(batch, width, frames)`` to the same shape."""
        out: Tensor = hidden + self.across(F.gelu(self.within(F.gelu(hidden))))
        return out


class Downsample(nn.Sequential):
    """Strided convolutions, one for each prime factor of the ratio, with GELU between them; nothing for a ratio of 1.

    Args:
        channels_in: Channels before.
        channels_out: Channels after.
        ratio: By which the length is divided.
        bands: Parts of the channels that are not mixed.

    Attributes:
        reach: Input frames before and after an output frame's own ones that it sees.

    Raises:
        ConfigError: If a ratio of 1 is to change the channels.
    """

    def __init__(self, channels_in: int, channels_out: int, ratio: int, bands: int = 1) -> None:
        _refuse_idle_change(channels_in, channels_out, ratio)
        layers: list[nn.Module] = []
        reach, hop = 0, 1
        for step in _prime_factors(ratio):
            layers += [nn.GELU()] if layers else []
            layers.append(_strided(nn.Conv1d, channels_in, channels_out, step, bands))
            channels_in, reach, hop = channels_out, reach + hop * (step // 2), hop * step
        super().__init__(*layers)
        self.reach = reach


class Upsample(nn.Sequential):
    """Transposed convolutions, one for each prime factor of the ratio: the reverse of ``Downsample``.

    Args:
        channels_in: Channels before.
        channels_out: Channels after.
        ratio: By which the length is multiplied.
        bands: Parts of the channels that are not mixed.

    Attributes:
        reach: Input frames before and after its own one that an output frame sees.

    Raises:
        ConfigError: If a ratio of 1 is to change the channels.
    """

    def __init__(self, channels_in: int, channels_out: int, ratio: int, bands: int = 1) -> None:
        _refuse_idle_change(channels_in, channels_out, ratio)
        layers: list[nn.Module] = []
        for step in reversed(_prime_factors(ratio)):
            layers += [nn.GELU()] if layers else []
            layers.append(_strided(nn.ConvTranspose1d, channels_in, channels_out, step, bands))
            channels_in = channels_out
        super().__init__(*layers)
        self.reach = len(_prime_factors(ratio))


def _refuse_idle_change(channels_in: int, channels_out: int, ratio: int) -> None:
    if ratio == 1 and channels_in != channels_out:
        raise ConfigError(f"a ratio of 1 keeps the channels, expected {channels_in}, got {channels_out}")


def _strided(
    kind: type[nn.Conv1d] | type[nn.ConvTranspose1d], channels_in: int, channels_out: int, step: int, bands: int
) -> nn.Module:
    """Return a (transposed) convolution that divides (multiplies) the length by ``step`` exactly."""
    return kind(channels_in, channels_out, step + 2 * (step // 2), step, padding=step // 2, groups=bands)


def _prime_factors(number: int) -> list[int]:
    """Return the prime factors, rising."""
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


@contextmanager
def unit_power_start(model: nn.Module) -> Iterator[None]:
    """Within this context, each convolution is rescaled when it first runs, so that its output has variance 1.

    PyTorch's own start shrinks signals and adds biases to them: a dozen layers on, latents differ from frame to frame
    by a thousandth of their mean, and the first steps of training blow them up. (Data-driven start in the manner of
    Mishkin and Matas 2016, "All you need is a good init".) Layers whose output is zero stay as they are.
    """
    waiting = {layer for layer in model.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)}

    @torch.no_grad()
    def rescale(layer: nn.Module, _: Any, output: Tensor) -> Tensor | None:
        if layer not in waiting or not isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) or layer.bias is None:
            return None
        signal = output - layer.bias.unsqueeze(1)
        std = signal.std()
        if not std > _SILENCE:
            return None
        waiting.remove(layer)
        layer.bias.zero_()
        layer.weight.div_(std)
        return signal / std

    hooks = [layer.register_forward_hook(rescale) for layer in waiting]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
