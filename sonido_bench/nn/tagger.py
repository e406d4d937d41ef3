"""The tagging network: tokens, residual blocks, attention pooling, one linear head."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from sonido_bench.nn.attention_pooling import AttentionPooling, masked_max, masked_mean, token_out
from sonido_bench.nn.optional_injection import Injection, OptionalInjection
from sonido_bench.nn.standardise import Network, Standardise
from sonido_bench.nn.temporal_conv import TemporalConv

__all__ = ["Pooling", "Tagger"]

Pooling = Literal["attention", "mean", "attention_mean_max"]


class _Block(nn.Module):
    """Residual block: normalise, look at neighbouring tokens, GELU, dropout."""

    def __init__(self, width: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = TemporalConv(width, width, kernel_size)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout1d(dropout)  # whole channels: one random number per clip and channel, not per token

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(batch, frames, width)`` to the same shape."""
        update = self.activation(self.conv(self.norm(tokens)))
        kept: Tensor = self.dropout(update.transpose(1, 2)).transpose(1, 2)
        return tokens + kept


class Tagger(Network):
    """Tags, classes or values from the tokens of a clip.

    Standardised input, linear to ``width``, (features injected), residual blocks, pooling over time, linear head.
    SoniDo pools by an attention block with token-out; the block's layout is not known, so width, depth, temporal
    context and pooling are options to be chosen on validation, for the baseline first.

    Args:
        input_dim: Channels of a token of the front end.
        outputs: Values per clip.
        width: Channels of the hidden tokens.
        layers: Residual blocks.
        kernel_size: Tokens that a block sees, odd; 1 sees no neighbours.
        heads: Of the attention pooling.
        pooling: ``attention``, ``mean``, or both with the maximum, concatenated.
        dropout: In the blocks and before the head.
        token_out: Share of the tokens that pooling does not see in training.
        feature_dims: Width of each feature stream; ``None`` is the network without features.
        injection: How features enter; ``add`` starts as the network without them, bit for bit.
        injection_gain: How loud they are beside the network's own input.
    """

    def __init__(
        self,
        input_dim: int,
        outputs: int,
        width: int = 64,
        layers: int = 1,
        kernel_size: int = 1,
        heads: int = 4,
        pooling: Pooling = "attention_mean_max",
        dropout: float = 0.2,
        token_out: float = 0.2,
        feature_dims: Mapping[str, int] | None = None,
        injection: Injection = "add",
        injection_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.token_out = token_out
        self.normalise = Standardise(input_dim)
        self.embed = nn.Linear(input_dim, width)
        self.blocks = nn.Sequential(*(_Block(width, kernel_size, dropout) for _ in range(layers)))
        self.attention = AttentionPooling(width, heads) if pooling != "mean" else None
        self.statistics = {"attention": (), "mean": (masked_mean,)}.get(pooling, (masked_mean, masked_max))
        pooled = width * (len(self.statistics) + (self.attention is not None))
        self.head = nn.Sequential(nn.LayerNorm(pooled), nn.Dropout(dropout), nn.Linear(pooled, outputs))
        self.inject = OptionalInjection(feature_dims, width, injection, injection_gain)

    def forward(self, tokens: Tensor, features: dict[str, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """Score clips.

        Args:
            tokens: Front end, ``(batch, frames, input_dim)``.
            features: Every stream of ``feature_dims`` on the same frames, ``(batch, frames, dim)``.
            mask: ``(batch, frames)``, true where a frame is valid; ``None`` where all are.

        Returns:
            ``(batch, outputs)``: logits or standardised values.

        Raises:
            ValueError: If features are given to a network without, or missing in one with.
        """
        hidden = self.inject(self.embed(self.normalise(tokens)), features)
        scores: Tensor = self.head(self._pool(self.blocks(hidden), mask))
        return scores

    def _pool(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Pool ``(batch, frames, width)`` to one vector per clip."""
        if self.training and self.token_out > 0:
            mask = token_out(tokens, self.token_out, mask)
        pooled = [] if self.attention is None else [self.attention(tokens, mask)]
        return torch.cat([*pooled, *(statistic(tokens, mask) for statistic in self.statistics)], dim=-1)
