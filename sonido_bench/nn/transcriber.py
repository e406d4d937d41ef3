"""A shallow transcription network: what one layer reads from a spectrogram, with or without features."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sonido_bench.nn.optional_injection import Injection, OptionalInjection
from sonido_bench.nn.standardise import Network, Standardise
from sonido_bench.nn.temporal_conv import TemporalConv

__all__ = ["PITCHES", "NoteMaps", "ShallowTranscriber"]

PITCHES = 88
"""Keys of a piano: MIDI 21 to 108."""

_PRIORS = {"onset": 0.01, "offset": 0.01, "frame": 0.05, "velocity": 0.5}
"""Rough share of active cells: starting there saves the steps in which the network would learn just that."""


class NoteMaps(NamedTuple):
    """One value per frame and pitch, each ``(batch, frames, 88)``: logits from a network, else in [0, 1]."""

    onset: Tensor
    offset: Tensor
    frame: Tensor
    velocity: Tensor


class ShallowTranscriber(Network):
    """Onsets, offsets, frames and velocities from a window of spectrogram frames.

    Standardised spectrogram, one convolution over ``2 * context + 1`` frames, (features injected), GELU, linear
    heads: the single-layer shallow back-end with which SoniDo is probed (its layout is not known). Features enter
    after the convolution, which then needs no gradient of its input: a third of the time of a step.

    Args:
        input_dim: Channels of a spectrogram frame.
        width: Hidden channels.
        context: Frames on each side that an output frame sees.
        dropout: Before the heads.
        feature_dims: Width of each feature stream; ``None`` is the network without features.
        injection: How features enter; ``add`` starts as the network without them, bit for bit.
        injection_gain: How loud they are beside the network's own input.
    """

    def __init__(
        self,
        input_dim: int,
        width: int = 256,
        context: int = 4,
        dropout: float = 0.1,
        feature_dims: Mapping[str, int] | None = None,
        injection: Injection = "add",
        injection_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.normalise = Standardise(input_dim)
        self.convolve = TemporalConv(input_dim, width, 2 * context + 1)
        self.activate = nn.Sequential(nn.GELU(), nn.LayerNorm(width), nn.Dropout(dropout))
        self.heads = nn.Linear(width, len(_PRIORS) * PITCHES)
        prior = torch.tensor(list(_PRIORS.values()))
        with torch.no_grad():
            self.heads.bias.copy_(prior.logit().repeat_interleave(PITCHES))
        self.inject = OptionalInjection(feature_dims, width, injection, injection_gain)

    def forward(self, frames: Tensor, features: dict[str, Tensor] | None = None) -> NoteMaps:
        """Transcribe.

        Args:
            frames: Spectrogram, ``(batch, frames, input_dim)``.
            features: Every stream of ``feature_dims`` on the same frames, ``(batch, frames, dim)``.

        Returns:
            Logits, each ``(batch, frames, 88)``.

        Raises:
            ValueError: If features are given to a network without, or missing in one with.
        """
        hidden = self.inject(self.convolve(self.normalise(frames)), features)
        return NoteMaps(*self.heads(self.activate(hidden)).chunk(len(_PRIORS), dim=-1))
