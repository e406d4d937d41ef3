"""Wave-U-Nets for mixing: the Mix-Wave-U-Net, and the form that FxNorm-automix compares itself with."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.nn.mixing_network import MixingNetwork
from sonido_bench.nn.optional_injection import Injection

__all__ = ["FxNormWaveUNet", "MixWaveUNet"]

_GROUP = 8
"""Channels that are normalised together in ``FxNormWaveUNet``."""

_SINC_TAPS = 15


class _Down(nn.Module):
    """Convolution, batch normalisation, PReLU (the skip), then a convolution that halves the rate."""

    def __init__(self, inputs: int, width: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = _same_conv(inputs, width, kernel_size)
        self.norm = nn.BatchNorm1d(width)
        self.activate = nn.PReLU(width)
        self.halve = nn.Conv1d(width, width, kernel_size, stride=2, padding=kernel_size // 2)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.activate(self.norm(self.conv(hidden)))
        return self.halve(skip), skip


class _Up(nn.Module):
    """Doubles the rate by repetition, joins the skip, convolution, batch normalisation, PReLU."""

    def __init__(self, inputs: int, width: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = _same_conv(2 * inputs, width, kernel_size)
        self.norm = nn.BatchNorm1d(width)
        self.activate = nn.PReLU(width)

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat([_repeat(hidden, 2), skip], dim=1)
        output: Tensor = self.activate(self.norm(self.conv(joined)))
        return output


class MixWaveUNet(MixingNetwork):
    """The Mix-Wave-U-Net of Martinez-Ramirez, Stoller and Moffat (2021), as in automix-toolkit's ``mixwaveunet.py``.

    Each of ``layers`` levels halves the rate and adds ``growth`` channels; an equally deep decoder joins the levels'
    outputs, and the last convolution sees the input stems as well. With the default sizes it has 17,833,426
    parameters for 4 stereo stems and 17,836,002 for 8.

    Features enter at the bottleneck, before its pointwise convolution: every ``2**layers`` samples, 10.8 Hz at
    44.1 kHz for the published depth.

    Args:
        stems: Number of stereo stems.
        layers: Levels of encoder and decoder.
        growth: Channels that each level adds.
        kernel_size: Of the levels' convolutions, odd.
        output_kernel: Of the last convolution, odd.
        start_from_sum: Whether the untrained network gives the plain sum of the stems, for short trainings: the last
            convolution starts by passing them. As published it starts at random.
        input_scale: What the stems are multiplied by, and the mix divided by. Music has amplitudes of some 0.05, what
            the levels give of some 1: without a scale every step of Adam changes what the levels add to the mix far
            more than how loud the stems pass, which a short training does not mend. 1 as published.
        sample_rate: Of the audio, in Hz.
        feature_dims: Width of each feature stream; ``None`` is the published network.
        injection: How features enter; ``add`` starts as the network without them, bit for bit.
        injection_gain: How loud they are beside the network's own input.

    Raises:
        ValueError: If a size is not positive, or a kernel is even.
    """

    def __init__(
        self,
        stems: int = 4,
        layers: int = 12,
        growth: int = 24,
        kernel_size: int = 13,
        output_kernel: int = 5,
        start_from_sum: bool = False,
        input_scale: float = 1.0,
        sample_rate: int = 44_100,
        feature_dims: Mapping[str, int] | None = None,
        injection: Injection = "add",
        injection_gain: float = 1.0,
    ) -> None:
        if layers < 1:
            raise ValueError(f"expected at least 1 layer, got {layers}")
        if not input_scale > 0:
            raise ValueError(f"expected a positive input_scale, got {input_scale}")
        widths = [growth * level for level in range(1, layers + 1)]
        # A halving convolution is centred at every other sample, from the first: frame i lies at i * 2**layers.
        super().__init__(stems, sample_rate, 2**layers, 0.0, widths[-1], feature_dims, injection, injection_gain)
        self.input_scale = input_scale
        inputs = 2 * stems
        self.encoder = nn.ModuleList(_Down(*each, kernel_size) for each in pairwise([inputs, *widths]))
        self.bottleneck = nn.Conv1d(widths[-1], widths[-1], 1)
        self.decoder = nn.ModuleList(_Up(*each, kernel_size) for each in pairwise([*widths[::-1], growth]))
        self.output = _same_conv(growth + inputs, 2, output_kernel)
        if start_from_sum:
            self._start_from_sum()

    @torch.no_grad()
    def _start_from_sum(self) -> None:
        """Let the last convolution pass left to left and right to right; what the levels give starts at zero."""
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)
        centre = self.output.kernel_size[0] // 2
        for channel in range(2):
            self.output.weight[channel, channel : 2 * self.stems : 2, centre] = 1

    def _mix(self, inputs: Tensor, features: dict[str, Tensor] | None) -> Tensor:
        inputs = self._fill(inputs) * self.input_scale
        hidden, skips = inputs, []
        for down in self.encoder:
            hidden, skip = down(hidden)
            skips.append(skip)
        hidden = self.bottleneck(self._inject(hidden, features))
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            hidden = up(hidden, skip)
        mix: Tensor = self.output(torch.cat([inputs, hidden], dim=1)) / self.input_scale
        return mix


class _ValidConv(nn.Module):
    """Convolution without padding, group normalisation, ReLU; the output is ``kernel_size - 1`` samples shorter."""

    def __init__(self, inputs: int, width: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, width, kernel_size)
        self.norm = nn.GroupNorm(width // _GROUP, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(hidden)))


class _SincFilter(nn.Module):
    """The published network's fixed low-pass before a change of rate, whose rate never changes.

    With its cut-off at half the sample rate the sinc is a single one (up to rounding, 1e-16): the layer passes
    everything. It is kept, with frozen weights, for the published parameter count and weights, but costs no
    convolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        taps = torch.zeros(width, 1, _SINC_TAPS)
        taps[..., _SINC_TAPS // 2] = 1
        self.taps = nn.Parameter(taps, requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


class _ValidDown(nn.Module):
    def __init__(self, inputs: int, skip_width: int, width: int, kernel_size: int) -> None:
        super().__init__()
        self.before = _ValidConv(inputs, skip_width, kernel_size)
        self.after = _ValidConv(skip_width, width, kernel_size)
        self.resample = _SincFilter(width)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.before(hidden)
        return self.resample(self.after(skip)), skip


class _ValidUp(nn.Module):
    def __init__(self, inputs: int, width: int, kernel_size: int) -> None:
        super().__init__()
        self.resample = _SincFilter(inputs)
        self.before = _ValidConv(inputs, width, kernel_size)
        self.after = _ValidConv(2 * width, width, kernel_size)

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        hidden = self.before(self.resample(hidden))
        margin = (skip.shape[-1] - hidden.shape[-1]) // 2
        cropped = skip[..., margin : skip.shape[-1] - margin]
        output: Tensor = self.after(torch.cat([cropped, hidden], dim=1))
        return output


class FxNormWaveUNet(MixingNetwork):
    """The Wave-U-Net baseline of FxNorm-automix (``common_networkbuilding_waveunet.py``, ``wun_S_Lb.py``).

    Unlike other Wave-U-Nets it stays at the full rate everywhere, so that its context is short; convolutions are
    valid, and 34 samples on each side are padded here where the original loses them. With the default sizes it has
    2,477,162 parameters, of which 21,600 are fixed filters that pass everything. Outside training the mix is clipped
    to [-1, 1].

    Features enter at the bottleneck. They are projected at their own rate, one frame every ``feature_hop`` samples,
    and only the projection is repeated to the full rate.

    Args:
        stems: Number of stereo stems.
        widths: Channels of each level, multiples of 8, at least two levels.
        kernel_size: Of all convolutions but the last, which is pointwise; odd.
        feature_hop: Samples of a frame of features.
        sample_rate: Of the audio, in Hz.
        feature_dims: Width of each feature stream; ``None`` is the published network.
        injection: How features enter; ``add`` starts as the network without them, bit for bit.
        injection_gain: How loud they are beside the network's own input.

    Raises:
        ValueError: If a size is out of range.
    """

    def __init__(
        self,
        stems: int = 4,
        widths: Sequence[int] = (24, 48, 96, 192, 384),
        kernel_size: int = 5,
        feature_hop: int = 1024,
        sample_rate: int = 44_100,
        feature_dims: Mapping[str, int] | None = None,
        injection: Injection = "add",
        injection_gain: float = 1.0,
    ) -> None:
        if len(widths) < 2 or any(width < 1 or width % _GROUP for width in widths):
            raise ValueError(f"expected at least two widths, multiples of {_GROUP}, got {tuple(widths)}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        centre = (feature_hop - 1) / 2
        super().__init__(stems, sample_rate, feature_hop, centre, widths[-1], feature_dims, injection, injection_gain)
        # Each side loses half a kernel in two convolutions of every block of the decoder, and as much in the encoder.
        self._decoder_margin = (len(widths) - 1) * (kernel_size - 1)
        self._margin = 2 * self._decoder_margin + kernel_size // 2
        levels = list(pairwise(widths))
        self.encoder = nn.ModuleList(
            _ValidDown(2 * stems if level == 0 else width, width, wider, kernel_size)
            for level, (width, wider) in enumerate(levels)
        )
        self.bottleneck = _ValidConv(widths[-1], widths[-1], kernel_size)
        self.decoder = nn.ModuleList(_ValidUp(wider, width, kernel_size) for width, wider in reversed(levels))
        self.output = nn.Conv1d(widths[0], 2, 1)

    def _mix(self, inputs: Tensor, features: dict[str, Tensor] | None) -> Tensor:
        hidden, skips = F.pad(inputs, (self._margin, self._margin)), []
        for down in self.encoder:
            hidden, skip = down(hidden)
            skips.append(skip)
        hidden = self._add_features(self.bottleneck(hidden), features)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            hidden = up(hidden, skip)
        mix: Tensor = self.output(hidden)
        return mix if self.training else mix.clamp(-1, 1)

    def _add_features(self, hidden: Tensor, features: dict[str, Tensor] | None) -> Tensor:
        """Add projected features to ``(batch, width, samples + 2 * margin)``; the margins get none."""
        samples = hidden.shape[-1] - 2 * self._decoder_margin
        nothing = hidden.new_zeros(*hidden.shape[:2], self.frames(samples))
        projected = self._inject(nothing, features)
        if features is None:
            return hidden
        update = _repeat(projected, self.hop_length)[..., :samples]
        return hidden + F.pad(update, (self._decoder_margin, self._decoder_margin))


def _same_conv(inputs: int, width: int, kernel_size: int) -> nn.Conv1d:
    """Convolution that keeps the number of samples."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernels must be odd and positive, got {kernel_size}")
    return nn.Conv1d(inputs, width, kernel_size, padding=kernel_size // 2)


def _repeat(frames: Tensor, times: int) -> Tensor:
    """Repeat every frame of ``(batch, width, frames)``; faster than ``nn.Upsample`` and deterministic on a GPU."""
    return frames.unsqueeze(-1).expand(*frames.shape, times).flatten(2)
