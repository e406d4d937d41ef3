"""A transformer that goes on from a prompt one position at a time, as sampling does.

A step of a model that fits into a processor's cache is mostly overhead: module calls, small copies, views. Here a block
is a dozen operations on weights at hand, and keys lie so that those a position attends to are always one slice. A step
of a larger one is reading its weights: see ``few_rows.py``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.foundation.transformer.cache import KVCache, LayerCache
from sonido_bench.foundation.transformer.few_rows import few_rows_linear
from sonido_bench.foundation.transformer.sparse_attention import Pattern, SparseAttention
from sonido_bench.foundation.transformer.transformer import Block, Transformer

__all__ = ["Stepper", "read_prompt"]


class Stepper:
    """Runs a transformer position by position, without gradients and dropout.

    Keys and values are held in the precision of the linear layers; the stream and the norms may be in a higher one.
    On a processor, one item goes on faster if ``lay_out`` has turned the transformer's matrices.

    Args:
        transformer: Whose weights are used; they must stay where they are.
        cache: What has read the positions before, one at least; is copied, and no longer needed.
        positions: Of the whole sequence, those before included.
    """

    def __init__(self, transformer: Transformer, cache: KVCache, positions: int) -> None:
        self.position = cache.position
        self._layouts: dict[Pattern, _Layout] = {}
        self._steps: list[tuple[Pattern, Callable[[Tensor, _Place], Tensor]]] = []
        for block, kept in zip(transformer.blocks, cache.layers, strict=True):
            assert isinstance(block, Block)
            attention = block.attention
            layout = _Layout(attention.pattern, attention.block_length, attention.prime_length, positions)
            if attention.pattern == "cross":
                layout = layout._replace(positions=kept.length)
            self._layouts[attention.pattern] = layout
            self._steps.append((attention.pattern, _BlockStep(block, _laid_out(kept, layout))))

    @torch.no_grad()
    def __call__(self, hidden: Tensor) -> Tensor:
        """Read the next position: ``(batch, width)`` to the same."""
        places = {pattern: layout.place(self.position) for pattern, layout in self._layouts.items()}
        for pattern, step in self._steps:
            hidden = step(hidden, places[pattern])
        self.position += 1
        return hidden


@torch.no_grad()
def read_prompt(
    transformer: Transformer,
    hidden: Tensor,
    positions: int,
    context: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Stepper]:
    """Read the beginning of a sequence, to go on from there position by position.

    Args:
        transformer: In evaluation mode.
        hidden: ``(batch, positions read, width)``, one position at least.
        positions: Of the whole sequence.
        context: As in ``Transformer.forward``.
        chunk: So many positions are read at a time, to save memory; ``None``: all at once.

    Returns:
        What the transformer puts out at the last position read, ``(batch, width)``, and what reads those that follow.

    Raises:
        ValueError: If a context is missing.
    """
    cache = KVCache(transformer.config.depth, hidden.shape[1])
    for part in torch.split(hidden, chunk or hidden.shape[1], dim=1):
        read = transformer(part, cache=cache, context=context)
    return read[:, -1], Stepper(transformer, cache, positions)


class _Place(NamedTuple):
    """Where a position's own key goes, and which keys it attends to.

    Attributes:
        slot: Of its key; -1: nobody will ask for it.
        first: Slot that it attends to.
        length: Of those from there on; 0: none, and the attention is zero.
    """

    slot: int
    first: int
    length: int


class _Layout(NamedTuple):
    """How the keys of a pattern lie.

    Attributes:
        pattern: Of the attention.
        row: Positions of a row.
        prime: Positions that ``prime`` attends to.
        positions: Of the whole sequence; for ``cross``, of the context.
    """

    pattern: Pattern
    row: int
    prime: int
    positions: int

    @property
    def slots(self) -> int:
        """Return how many keys are held."""
        held = {
            "row": self.row,
            "previous_row": 2 * self.row,
            "column": self._rows * self.row,
            "prime": min(self.prime, self.positions),
        }
        return held.get(self.pattern, self.positions)

    @property
    def _rows(self) -> int:
        return -(-self.positions // self.row)

    def place(self, position: int) -> _Place:
        """Return where a position belongs."""
        row, in_row = divmod(position, self.row)
        if self.pattern == "row":  # of one row, the next one writes over it
            return _Place(in_row, 0, in_row + 1)
        if self.pattern == "previous_row":  # two rows take turns
            return _Place(row % 2 * self.row + in_row, (row - 1) % 2 * self.row, self.row if row else 0)
        if self.pattern == "column":  # column by column
            return _Place(in_row * self._rows + row, in_row * self._rows, row + 1)
        if self.pattern == "cross":
            return _Place(-1, 0, self.positions)
        if self.pattern == "prime":
            return _Place(position if position < self.prime else -1, 0, min(position + 1, self.prime))
        return _Place(position, 0, position + 1)


def _laid_out(kept: LayerCache, layout: _Layout) -> Tensor:
    """Return a buffer ``(batch, keys and values, heads, slots, head_dim)`` with what was kept in its places."""
    keys, values = kept.kept
    batch, length, heads, head_dim = keys.shape
    buffer = keys.new_zeros(batch, 2, heads, layout.slots, head_dim)
    if length:
        first = kept.start
        cross = layout.pattern == "cross"
        slots = [index if cross else layout.place(first + index).slot for index in range(length)]
        both = torch.stack([keys, values], dim=1).transpose(2, 3)
        buffer[:, :, :, torch.tensor(slots, device=keys.device)] = both
    return buffer


class _BlockStep:
    """One block, on one position of every item.

    Args:
        block: Whose weights are used.
        buffer: Of its keys and values.
    """

    def __init__(self, block: Block, buffer: Tensor) -> None:
        attention = block.attention
        assert isinstance(attention, SparseAttention)
        self._norms = [
            (norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in (block.attention_norm, block.mlp_norm)
        ]
        linears = (attention.project_in, attention.project_out, block.mlp_in, block.mlp_out)
        self._linears = [few_rows_linear(linear.weight, linear.bias, len(buffer)) for linear in linears]
        self._zero = attention.project_out.bias  # what attention to nothing adds
        self._rows, self._heads, self._quick, self._buffer = len(buffer), attention.heads, block.quick, buffer
        self._dtype = block.mlp_in.weight.dtype
        # a processor's attention to a few keys is faster after they are turned into float32 than in half precision
        self._attention_dtype = torch.float32 if buffer.device.type == "cpu" else buffer.dtype

    def __call__(self, hidden: Tensor, place: _Place) -> Tensor:
        project_in, project_out, mlp_in, mlp_out = self._linears
        before_attention, before_mlp = self._norms
        slot, first, length = place
        projected = project_in(torch.layer_norm(hidden, *before_attention).to(self._dtype))
        # queries, and unless this is cross attention, keys and values: (batch, 1 or 3, heads, head_dim)
        qkv = projected.view(self._rows, -1, self._heads, self._buffer.shape[-1])
        if slot >= 0:
            self._buffer.select(3, slot).copy_(qkv[:, 1:])
        if length:
            keys, values = self._buffer.narrow(3, first, length).to(self._attention_dtype).unbind(1)
            queries = qkv[:, 0].unsqueeze(2).to(self._attention_dtype)
            attended = F.scaled_dot_product_attention(queries, keys, values).to(self._dtype)
            hidden = hidden + project_out(attended.reshape(self._rows, -1))
        else:
            hidden = hidden + self._zero
        expanded = mlp_in(torch.layer_norm(hidden, *before_mlp).to(self._dtype))
        active = torch.sigmoid(1.702 * expanded).mul_(expanded) if self._quick else F.gelu(expanded)
        return hidden + mlp_out(active)
