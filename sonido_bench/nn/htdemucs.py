"""Hybrid Transformer Demucs (HTDemucs), with features injected into each of its branches."""

import copy
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import demucs.htdemucs
from torch import Tensor

from sonido_bench.features.spec import FrameGrid
from sonido_bench.nn.optional_injection import OptionalInjection
from sonido_bench.nn.published import load_published

__all__ = ["Branches", "HTDemucs"]

_T = TypeVar("_T")
_GROWTH = 2
_STRIDE = 4
_KERNEL = 8
_COMPRESSION = 8
"""By which the residual convolutions divide the channels."""
_NO_WIENER = -1
"""Iterations for which demucs gives its estimates the mixture's phase, and no Wiener filter."""


class Branches(NamedTuple, Generic[_T]):
    """One thing per branch of the network: of spectrogram frames, and of the waveform."""

    freq: _T
    time: _T


class HTDemucs(demucs.htdemucs.HTDemucs):
    """The network of demucs 4.1, which see (htdemucs.py; Rouard et al. 2023); defaults are its own.

    26,899,536 parameters; 41,984,456, those of the released models, with ``dconv_mode=3``, ``bottom_channels=512`` and
    ``segment_seconds=7.8``. Features are added to both branches where they enter the transformer, to all frequency
    rows of a frame alike; the projections start at zero, so that the network starts as the published one, bit for bit.

    In evaluation, shorter input is padded to the segment and longer input is refused: ``nn.separation`` cuts long
    recordings. In training any length goes. Unlike the published class, this one does not take the length of its last
    training input for its segment, which a checkpoint would not know of.

    Args:
        sources: Names, in the order of the estimates.
        audio_channels: Of the audio.
        channels: Hidden channels of the first layer, at least 8; each further layer has twice as many.
        depth: Layers of encoder and decoder.
        n_fft: Of the spectrogram, whose hop is a quarter of it.
        cac: Spectrogram as complex numbers, in and out; ``False``: magnitudes, that get the mixture's phase.
        dconv_mode: Residual convolutions in the encoder (1), or in the decoder as well (3).
        bottom_channels: Width of the transformer; 0: the channels of the last layer.
        t_layers: Of the transformer, at least 1.
        t_heads: Of the transformer.
        t_dropout: In the transformer.
        sample_rate: Of the audio, in Hz.
        segment_seconds: Length of what the network is given in evaluation.
        feature_dims: Width of each feature stream; ``None`` is the published network.
        injection_gain: How loud features are beside the network's own input.

    Raises:
        ValueError: If there is no transformer, its heads do not divide its width, ``channels`` is below 8, or the
            branches would meet before the transformer (``depth`` too large for ``n_fft``).
    """

    def __init__(
        self,
        sources: Sequence[str] = ("drums", "bass", "other", "vocals"),
        audio_channels: int = 2,
        channels: int = 48,
        depth: int = 4,
        n_fft: int = 4096,
        cac: bool = True,
        dconv_mode: int = 1,
        bottom_channels: int = 0,
        t_layers: int = 5,
        t_heads: int = 8,
        t_dropout: float = 0.0,
        sample_rate: int = 44100,
        segment_seconds: float = 10.0,
        feature_dims: Mapping[str, int] | None = None,
        injection_gain: float = 1.0,
    ) -> None:
        width = bottom_channels or channels * _GROWTH ** (depth - 1)
        _check_sizes(channels, depth, n_fft, width, t_layers, t_heads)
        self.segment_samples = round(segment_seconds * sample_rate)
        super().__init__(
            list(sources),
            audio_channels=audio_channels,
            channels=channels,
            growth=_GROWTH,
            nfft=n_fft,
            wiener_iters=0 if cac else _NO_WIENER,
            end_iters=0 if cac else _NO_WIENER,
            cac=cac,
            depth=depth,
            kernel_size=_KERNEL,
            stride=_STRIDE,
            dconv_mode=dconv_mode,
            dconv_comp=_COMPRESSION,
            bottom_channels=bottom_channels,
            t_layers=t_layers,
            t_heads=t_heads,
            t_dropout=t_dropout,
            samplerate=sample_rate,
            segment=Fraction(self.segment_samples, sample_rate),  # a float would be cut to another number of samples
        )
        self.inject_freq = OptionalInjection(feature_dims, width, gain=injection_gain)
        self.inject_time = OptionalInjection(feature_dims, width, gain=injection_gain)

    @property
    def grids(self) -> Branches[FrameGrid]:
        """Where the frames lie that features are added to; both branches pad so that frames tile the audio."""
        freq, time = (Fraction(self.samplerate, hop) for hop in (self.hop_length, _STRIDE**self.depth))
        return Branches(FrameGrid(float(freq), float(1 / freq / 2)), FrameGrid(float(time), float(1 / time / 2)))

    def frames(self, samples: int) -> Branches[int]:
        """Return how many frames an input has in each branch: in evaluation, as many as the padded segment."""
        padded = samples if self.training else self.segment_samples
        return Branches(-(-padded // self.hop_length), -(-padded // _STRIDE**self.depth))

    def forward(self, mix: Tensor, features: Branches[dict[str, Tensor]] | None = None) -> Tensor:
        """Separate.

        Args:
            mix: ``(batch, audio_channels, samples)``; in evaluation at most ``segment_samples``.
            features: Every stream of ``feature_dims``, for each branch at ``grids`` and ``frames(samples)``,
                ``(batch, frames, dim)``.

        Returns:
            ``(batch, sources, audio_channels, samples)``.

        Raises:
            ValueError: If the input has another shape or is too long; if features do not fit the network.
        """
        if mix.ndim != 3 or mix.shape[1] != self.audio_channels or mix.shape[2] == 0:
            raise ValueError(f"expected (batch, {self.audio_channels}, samples), got {tuple(mix.shape)}")
        if not self.training and mix.shape[2] > self.segment_samples:
            raise ValueError(
                f"expected at most {self.segment_samples} samples ({float(self.segment):g} s, the segment), got "
                f"{mix.shape[2]}; cut the recording with sonido_bench.nn.separation"
            )
        # The published forward knows no features. It runs on a shallow copy that shares all weights and in which the
        # transformer is bound to these features: nothing of a call stays in the network, and threads do not meet.
        bound = copy.copy(self)
        vars(bound)["crosstransformer"] = partial(self._inject_and_transform, features)
        estimates: Tensor = super(HTDemucs, bound).forward(mix)  # type: ignore[no-untyped-call]  # demucs has no types
        return estimates

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of a published network of the same sizes; injections stay as they are.

        Args:
            state: The ``state`` of a released demucs package, or the state dict of a ``demucs.htdemucs.HTDemucs``.

        Raises:
            ConfigError: If the weights are of a network of other sizes, or not of HTDemucs.
        """
        load_published(self, state)

    def _inject_and_transform(
        self, features: Branches[dict[str, Tensor]] | None, x: Tensor, xt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stand in for the transformer: ``(batch, width, rows, frames)`` and ``(batch, width, frames)``."""
        xt = self.inject_time(xt.mT, None if features is None else features.time).mT
        if features is not None:
            batch, width, _, frames = x.shape
            added = self.inject_freq(x.new_zeros(batch, frames, width), features.freq)  # once for all rows
            x = x + added.mT[:, :, None]
        # In another memory layout the layers that follow might round differently than the published ones.
        transformed: tuple[Tensor, Tensor] = self.crosstransformer(x.contiguous(), xt.contiguous())
        return transformed


def _check_sizes(channels: int, depth: int, n_fft: int, width: int, t_layers: int, t_heads: int) -> None:
    """Refuse what demucs builds, but cannot run, or refuses without a word.

    Raises:
        ValueError: See ``HTDemucs``.
    """
    if channels < _COMPRESSION:
        raise ValueError(f"expected at least {_COMPRESSION} channels, got {channels}")
    if t_layers < 1 or width % t_heads:
        raise ValueError(
            f"expected at least one layer of a transformer whose heads divide its width of {width}, got t_layers "
            f"{t_layers} and t_heads {t_heads}"
        )
    shortest = 2 * _KERNEL * _STRIDE ** (depth - 1)
    if n_fft <= shortest:
        raise ValueError(f"expected n_fft above {shortest} for a depth of {depth}, got {n_fft}; lower depth")
