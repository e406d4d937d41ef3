"""CRAFx2: the mixing network of FxNorm-automix."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.nn.mixing_network import MixingNetwork
from sonido_bench.nn.optional_injection import Injection

__all__ = ["CRAFx2"]

_EPSILON = 1e-8
"""Of the group normalisations, as published."""

_LONGEST_MEMORY = 31
"""Frames; the largest time constant that the recurrent layers start with."""


class _TemporalBlock(nn.Module):
    """A Conv-TasNet block: pointwise, depth-wise dilated, then a residual and a skip output.

    Args:
        width: Channels in and out.
        hidden: Channels within.
        skip_width: Channels of the skip output.
        kernel_size: Of the depth-wise convolution, odd.
        dilation: Of the same.
        last: Whether nothing follows: the residual output is then not computed. Its weights exist as in the original,
            frozen, so that no optimiser or data-parallel wrapper waits for their gradients.
    """

    def __init__(self, width: int, hidden: int, skip_width: int, kernel_size: int, dilation: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.pointwise = nn.Sequential(nn.Conv1d(width, hidden, 1), nn.PReLU(), nn.GroupNorm(1, hidden, eps=_EPSILON))
        padding = kernel_size // 2 * dilation
        self.depthwise = nn.Sequential(
            nn.Conv1d(hidden, hidden, kernel_size, padding=padding, dilation=dilation, groups=hidden),
            nn.PReLU(),
            nn.GroupNorm(1, hidden, eps=_EPSILON),
        )
        self.skip = nn.Conv1d(hidden, skip_width, 1)
        self.residual = nn.Conv1d(hidden, width, 1).requires_grad_(not last)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, width, frames)`` to itself plus the residual, and the skip output."""
        hidden = self.depthwise(self.pointwise(frames))
        return frames if self.last else frames + self.residual(hidden), self.skip(hidden)


class _SqueezeExcitation(nn.Module):
    """Scales every channel by what the mean magnitudes of all channels say (Hu et al., 2018)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.Linear(width, expansion * width), nn.ReLU(), nn.Linear(expansion * width, width), nn.Sigmoid()
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Scale ``(batch, width, samples)``."""
        gates: Tensor = self.gates(hidden.abs().mean(dim=-1))
        return hidden * gates.unsqueeze(-1)


class CRAFx2(MixingNetwork):
    """The network that Martinez-Ramirez et al. propose in "Automatic music mixing with deep learning" (2022).

    As in FxNorm-automix's ``common_networkbuilding_cafx_tdcn_lstm_mix.py`` and ``ours_S_Lb.py``: a convolution at the
    full rate gives channels; their smoothed magnitudes, pooled to 689 Hz, pass a temporal convolutional network and a
    bidirectional LSTM, which say how loud each channel is to be; excitation gates follow, and the transposed first
    convolution gives every stem, of which the mix is the sum, through tanh. 2,752,817 parameters for 4 stereo stems.

    Features enter after the pointwise convolution before the temporal network. This is the same as joining the
    projected features to that convolution's input, whose output is linear in both.

    Args:
        stems: Number of stereo stems.
        encoder_width: Channels at the full rate, even.
        encoder_kernel: Taps of the first convolution; those that smooth magnitudes are twice as long.
        pool: Samples of a hidden frame.
        width: Channels of the temporal network.
        hidden: Channels within its blocks.
        skip_width: Channels that its blocks add to its output.
        kernel_size: Of its dilated convolutions, odd.
        blocks: Of a repeat, with dilations 1, 2, 4, ...
        repeats: Of these blocks.
        recurrent_layers: Of the LSTM.
        dropout: Between them.
        expansion: Of the excitation gates' hidden layer.
        start_from_sum: Whether the untrained network gives the plain sum of the stems, for short trainings: half of
            the first convolution's filters pass the left channel band by band, half the right, magnitudes are smoothed
            by a mean, and all masks and gates are equal. What is left is the tanh (error at -45 dB for an RMS of 0.05)
            and, at both ends of a clip, half a kernel. As published all start at random.
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
        encoder_width: int = 128,
        encoder_kernel: int = 64,
        pool: int = 64,
        width: int = 256,
        hidden: int = 128,
        skip_width: int = 64,
        kernel_size: int = 3,
        blocks: int = 6,
        repeats: int = 4,
        recurrent_layers: int = 3,
        dropout: float = 0.1,
        expansion: int = 16,
        start_from_sum: bool = False,
        sample_rate: int = 44_100,
        feature_dims: Mapping[str, int] | None = None,
        injection: Injection = "add",
        injection_gain: float = 1.0,
    ) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0 or encoder_width % 2 or min(blocks, repeats) < 1:
            raise ValueError(
                "expected an odd kernel_size, an even encoder_width and at least one block and repeat, got "
                f"{kernel_size}, {encoder_width}, {blocks} and {repeats}"
            )
        super().__init__(
            stems,
            sample_rate,
            pool,
            _first_centre(encoder_kernel, pool),
            width,
            feature_dims,
            injection,
            injection_gain,
        )
        self.context = 1 + repeats * (kernel_size - 1) * (2**blocks - 1)
        self.analyse = nn.Conv1d(2 * stems, encoder_width, encoder_kernel, bias=False)
        self.smooth = nn.Conv1d(encoder_width, encoder_width, 2 * encoder_kernel, groups=encoder_width, bias=False)
        self.norm = nn.GroupNorm(1, encoder_width, eps=_EPSILON)
        self.bottleneck = nn.Conv1d(encoder_width, width, 1)
        count = repeats * blocks
        self.temporal = nn.ModuleList(
            _TemporalBlock(width, hidden, skip_width, kernel_size, 2 ** (block % blocks), last=block == count - 1)
            for block in range(count)
        )
        self.expand = nn.Sequential(nn.PReLU(), nn.Conv1d(skip_width, encoder_width, 1), nn.Softplus())
        self.recurrent = nn.LSTM(
            encoder_width,
            encoder_width // 2,
            recurrent_layers,
            batch_first=True,
            dropout=dropout if recurrent_layers > 1 else 0.0,
            bidirectional=True,
        )
        self.excite = _SqueezeExcitation(encoder_width, expansion)
        _start_with_long_memory(self.recurrent)
        if start_from_sum:
            self._start_from_sum()

    @property
    def guard_samples(self) -> int:
        """Samples on each side of a segment that a training loss leaves out, as published: 32,446.

        It is the whole context of the temporal network and both full-rate convolutions.
        """
        samples: int = self.context * self.hop_length + 2 * (self.analyse.weight.shape[-1] - 1)
        return samples

    @torch.no_grad()
    def _start_from_sum(self) -> None:
        """Let the filters pass what they analyse, and masks and gates start constant."""
        last = f"_l{self.recurrent.num_layers - 1}"
        for name, weight in self.recurrent.named_parameters():
            if "weight" in name and last in name:
                weight.chunk(4)[2].zero_()  # of what enters the cells, where the biases are zero: nothing does
        for parameter in self.excite.gates[2].parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(self.smooth.weight, 1 / self.smooth.weight.shape[-1])
        width, _, taps = self.analyse.weight.shape
        # On the way back a filter is the sum of those of all stems; the masks are softplus(0), the gates sigmoid(0).
        gain = self.stems * math.log(2) / 2
        bank = _band_filters(width // 2, taps) / math.sqrt(gain)
        filters = nn.init.zeros_(self.analyse.weight)
        for channel, half in enumerate(filters.chunk(2)):
            half[:, channel::2] = bank.unsqueeze(1)

    def autoencode(self, stems: Tensor) -> Tensor:
        """Pass stems through the front end alone; its published pre-training makes the output equal the input (L1).

        The magnitudes take the place of the mask, each at the sample where it was largest.

        Args:
            stems: ``(batch, stems, 2, samples)``.

        Returns:
            The same shape.
        """
        channels = self._analyse(self._fill(stems.flatten(1, 2)))
        magnitudes = F.softplus(self._smooth(channels))
        pooled, indices = F.max_pool1d(magnitudes, self.hop_length, return_indices=True)
        mask = F.max_unpool1d(pooled, indices, [self.hop_length])
        synthesised = self._synthesise(mask * channels, self.analyse.weight)
        return synthesised[..., : stems.shape[-1]].reshape(stems.shape)

    def _mix(self, inputs: Tensor, features: dict[str, Tensor] | None) -> Tensor:
        channels = self._analyse(self._fill(inputs))
        magnitudes = F.max_pool1d(F.softplus(self._smooth(channels)), self.hop_length)
        hidden = self._inject(self.bottleneck(self.norm(magnitudes)), features)
        skips = hidden.new_zeros(())
        for block in self.temporal:
            hidden, skip = block(hidden)
            skips = skips + skip
        wanted = self.expand(skips).transpose(1, 2)
        mask = F.softplus(self.recurrent(wanted)[0]).transpose(1, 2).unsqueeze(-1)
        hops = channels.reshape(*channels.shape[:2], -1, self.hop_length)
        masked = (hops * mask).flatten(2)
        # The sum of the stems is what the sum of their filters gives, at a fraction of the cost.
        weight = self.analyse.weight
        filters = weight.reshape(len(weight), self.stems, 2, -1).sum(dim=1)
        return self._synthesise(self.excite(masked), filters).tanh()

    def _analyse(self, inputs: Tensor) -> Tensor:
        channels: Tensor = self.analyse(F.pad(inputs, _same(self.analyse.weight.shape[-1])))
        return channels

    def _smooth(self, channels: Tensor) -> Tensor:
        smoothed: Tensor = self.smooth(F.pad(channels.abs(), _same(self.smooth.weight.shape[-1])))
        return smoothed

    def _synthesise(self, channels: Tensor, filters: Tensor) -> Tensor:
        """Turn ``(batch, encoder_width, samples)`` into audio by transposed filters."""
        left, _ = _same(filters.shape[-1])
        # The original drops 31 samples of the channels at the start and 32 at the end: audio fades out there.
        return F.conv_transpose1d(channels, filters)[..., left : left + channels.shape[-1]]


def _same(kernel_size: int) -> tuple[int, int]:
    """Padding that keeps the number of samples; an even kernel has one more on the right."""
    return (kernel_size - 1) // 2, kernel_size // 2


def _first_centre(encoder_kernel: int, pool: int) -> float:
    """Centre of the first hidden frame in samples; each of the two even kernels looks half a sample ahead."""
    ahead = sum((right - left) / 2 for left, right in (_same(encoder_kernel), _same(2 * encoder_kernel)))
    return (pool - 1) / 2 + ahead


def _band_filters(bands: int, taps: int) -> Tensor:
    """Cosine-modulated filters that pass audio unchanged when each is followed by its mirror image and all are added.

    ``cos((k + 1/2) pi t / bands + (-1)**k pi / 4)``, t from the window's centre, as in the modified discrete cosine
    transform (Princen, Johnson and Bradley, 1987). Without decimation the squared magnitudes of their spectra add up
    to a constant under every symmetric window of at most ``2 * bands`` taps, here a sine.

    Args:
        bands: Of equal width, up to half the sample rate.
        taps: Of the result; the window lies in the middle, zeros around it.

    Returns:
        ``(bands, taps)``.
    """
    length = min(taps, 2 * bands)
    time = torch.arange(length) - (length - 1) / 2
    band = torch.arange(bands).unsqueeze(1)
    window = torch.cos(math.pi * time / length)
    filters = window * torch.cos((band + 0.5) * math.pi / bands * time + (1 - 2 * (band % 2)) * math.pi / 4)
    before = (taps - length) // 2
    return F.pad(filters / filters.square().sum().sqrt(), (before, taps - length - before))


@torch.no_grad()
def _start_with_long_memory(recurrent: nn.LSTM) -> None:
    """Chrono initialisation (Tallec and Ollivier, 2018): forget gates start at log U(1, 31), input gates opposite.

    Both bias vectors get it, each drawn on its own, as in the original code.
    """
    for name, bias in recurrent.named_parameters():
        if "bias" in name:
            size = len(bias) // 4
            nn.init.zeros_(bias)
            memory = torch.empty_like(bias[:size]).uniform_(1, _LONGEST_MEMORY).log()
            bias[size : 2 * size] = memory
            bias[:size] = -memory
