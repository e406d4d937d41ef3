"""A transformer with what goes before and behind it: codes in, logits out."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.foundation.transformer.transformer import Transformer, TransformerConfig

__all__ = ["CodeModel"]


class CodeModel(nn.Module):
    """Predicts every code of a sequence from those before it.

    Position ``i`` reads code ``i - 1``, position 0 a start token. Jukebox has no norm behind the transformer.

    Args:
        config: Of the transformer.
        positions: Of a sequence at most.
        vocabulary: Number of codes.
        own_start: Has a learned start token; otherwise one is given.
        output: ``own``: weights of its own; ``tied``: those of the input embedding, and conditions are added a second
            time before; ``none``: it makes no predictions.
    """

    def __init__(
        self,
        config: TransformerConfig,
        positions: int,
        vocabulary: int,
        own_start: bool,
        output: Literal["own", "tied", "none"],
    ) -> None:
        super().__init__()
        self.tied = output == "tied"
        self.embedding = nn.Embedding(vocabulary, config.width)
        nn.init.normal_(self.embedding.weight, std=0.02 * config.init_scale)
        self.positions = nn.Parameter(0.01 * config.init_scale * torch.randn(positions, config.width))
        self.start = nn.Parameter(0.01 * config.init_scale * torch.randn(config.width)) if own_start else None
        self.transformer = Transformer(config)
        if output == "own":
            self.head = nn.Linear(config.width, vocabulary, bias=False)
            nn.init.normal_(self.head.weight, std=0.02 * config.init_scale)

    def embed(self, codes: Tensor, start: Tensor | None) -> Tensor:
        """Embed a sequence behind its start token.

        Args:
            codes: ``(batch, length)``.
            start: ``(batch, 1, width)``, or ``None`` for the learned one.

        Returns:
            ``(batch, 1 + length, width)``.

        Raises:
            ValueError: If there is no learned start token, and none is given.
        """
        if start is None:
            if self.start is None:
                raise ValueError("this model has no start token of its own: give labels")
            start = self.start.expand(len(codes), 1, -1)
        return torch.cat([start, self.embedding(codes)], dim=1)

    def place(self, embedded: Tensor, first: int, bias: Tensor | None) -> Tensor:
        """Add places and conditions.

        Args:
            embedded: ``(batch, length, width)``.
            first: Position of the first of them.
            bias: Of all positions, ``(batch, positions, width)``.
        """
        last = first + embedded.shape[1]
        placed = embedded + self.positions[first:last]
        return placed if bias is None else placed + bias[:, first:last]

    def logits(self, hidden: Tensor, first: int, bias: Tensor | None) -> Tensor:
        """Return ``(batch, length, vocabulary)`` from what the transformer puts out; arguments as of ``place``."""
        return F.linear(self.before_head(hidden, first, bias), self.output_weight)

    def before_head(self, hidden: Tensor, first: int, bias: Tensor | None) -> Tensor:
        """Return what ``output_weight`` is multiplied with, of the shape of ``hidden``; arguments as of ``place``."""
        return hidden + bias[:, first : first + hidden.shape[1]] if self.tied and bias is not None else hidden

    @property
    def output_weight(self) -> Tensor:
        """Return the weights that make logits, ``(vocabulary, width)``."""
        return self.embedding.weight if self.tied else self.head.weight
