"""A stack of pre-norm blocks whose attention patterns alternate."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.transformer.cache import KVCache, LayerCache
from sonido_bench.foundation.transformer.sparse_attention import Pattern, SparseAttention

__all__ = ["Transformer", "TransformerConfig"]


@dataclass(frozen=True)
class TransformerConfig:
    """What a stack is made of.

    Attributes:
        width: Channels of the residual stream.
        depth: Blocks.
        heads: Of the attention.
        attention_width: Channels of queries, keys and values; Jukebox has a quarter of ``width``.
        mlp_width: Hidden channels of the feed-forward half; Jukebox has ``width``.
        patterns: Of the attention: block ``i`` has the one at ``i`` modulo their number; ``depth`` of them give every
            block its own.
        block_length: Positions of a row of the factorised patterns.
        prime_length: Positions that ``prime`` attends to.
        dropout: On both branches of every block, in [0, 1).
        activation: ``quick_gelu`` is Jukebox's ``x * sigmoid(1.702 x)``.
        init_scale: Weights start with a standard deviation of 0.02 times this; biases at zero.
        depth_scaled_init: Those that write to the residual stream start smaller by ``sqrt(2 * depth)``; Jukebox's do
            not.
        checkpointing: Recompute the blocks' activations in the backward pass to save memory.
    """

    width: int
    depth: int
    heads: int
    attention_width: int
    mlp_width: int
    patterns: tuple[Pattern, ...] = ("row", "column", "previous_row")
    block_length: int = 64
    prime_length: int = 0
    dropout: float = 0.0
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    init_scale: float = 1.0
    depth_scaled_init: bool = True
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range; ``SparseAttention`` checks its own."""
        if self.depth < 1 or not self.patterns:
            raise ConfigError(f"a transformer wants one block and one pattern at least, got {self.depth} blocks")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout:g}")


class Block(nn.Module):
    """Attention, then a feed-forward network, each on the normalised stream and added to it.

    Args:
        config: Of the stack.
        pattern: Of this block's attention.
    """

    def __init__(self, config: TransformerConfig, pattern: Pattern) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SparseAttention(
            config.width, config.heads, pattern, config.block_length, config.attention_width, config.prime_length
        )
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp_in = nn.Linear(config.width, config.mlp_width)
        self.mlp_out = nn.Linear(config.mlp_width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.quick = config.activation == "quick_gelu"

    def forward(self, hidden: Tensor, cache: LayerCache | None = None, context: Tensor | None = None) -> Tensor:
        """Return ``(batch, positions, width)`` from the same, given the context if its attention is ``cross``.

        The stream and the norms may be in higher precision than the linear layers, which then work in their own.
        """
        dtype = self.mlp_in.weight.dtype
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden).to(dtype), cache, context))
        expanded = self.mlp_in(self.mlp_norm(hidden).to(dtype))
        active = expanded * torch.sigmoid(1.702 * expanded) if self.quick else F.gelu(expanded)
        added: Tensor = hidden + self.dropout(self.mlp_out(active))
        return added


class Transformer(nn.Module):
    """Blocks one after another, without embeddings before or a norm behind them.

    Weights start as normal noise; those that write to the residual stream are smaller by ``sqrt(2 * depth)`` (Radford
    et al. 2019, GPT-2, section 2.3), so that the stream's scale does not grow with the depth. Blocks with cross
    attention start by adding nothing, as in Jukebox, where they were added to a trained model (Dhariwal et al. 2020).

    Args:
        config: What it is made of.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        patterns = [config.patterns[index % len(config.patterns)] for index in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, pattern) for pattern in patterns)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                to_stream = name.endswith(("project_out.weight", "mlp_out.weight"))
                smaller = (2 * config.depth) ** 0.5 if to_stream and config.depth_scaled_init else 1.0
                nn.init.normal_(parameter, std=0.02 * config.init_scale / smaller)
        for block, pattern in zip(self.blocks, patterns, strict=True):
            if pattern == "cross":
                nn.init.zeros_(block.get_parameter("attention.project_out.weight"))
                nn.init.zeros_(block.get_parameter("mlp_out.weight"))

    @overload
    def forward(
        self, hidden: Tensor, layers: None = None, cache: KVCache | None = None, context: Tensor | None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        hidden: Tensor,
        layers: Collection[int],
        cache: None = None,
        context: Tensor | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[int, Tensor]: ...

    def forward(
        self,
        hidden: Tensor,
        layers: Collection[int] | None = None,
        cache: KVCache | None = None,
        context: Tensor | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | dict[int, Tensor]:
        """Run the blocks, no deeper than asked.

        Args:
            hidden: ``(batch, positions, width)``.
            layers: Whose output is wanted: 0 is the input, ``n`` what block ``n`` (from 1) puts out.
            cache: What was read before; these positions follow it.
            context: ``(batch, any positions, width)``, what blocks with ``cross`` attention look at.
            reduce: What is kept of each layer that is wanted; called as it is there, so that no two are held in full.

        Returns:
            What the last block puts out, ``(batch, positions, width)``; or layer to the same, or to what ``reduce``
            makes of it, in ascending order.

        Raises:
            ValueError: If there is no such layer, none is asked for, or a context is missing.
        """
        if layers is not None and (not layers or not set(layers) <= set(range(len(self.blocks) + 1))):
            raise ValueError(f"layers must be some of 0 to {len(self.blocks)}, got {sorted(layers)}")
        deepest = len(self.blocks) if layers is None else max(layers)
        outputs: dict[int, Tensor] = {}
        if layers is not None and 0 in layers:
            outputs[0] = hidden if reduce is None else reduce(hidden)
        for index, block in enumerate(self.blocks[:deepest]):
            if self.config.checkpointing and torch.is_grad_enabled() and cache is None:
                hidden = checkpoint(block, hidden, None, context, use_reentrant=False)
            else:
                hidden = block(hidden, None if cache is None else cache.layers[index], context)
            if layers is not None and index + 1 in layers:
                outputs[index + 1] = hidden if reduce is None else reduce(hidden)
        return hidden if layers is None else outputs
