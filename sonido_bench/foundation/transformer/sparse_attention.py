"""Attention over a part of the sequence: the factorised patterns of sparse transformers.

A sequence is laid out in rows of ``block_length`` positions. With ``C`` positions a row, position ``i`` attends to

- ``row``: the positions of its row up to itself, ``j // C == i // C`` and ``j <= i``;
- ``column``: those above it in its column and itself, ``j % C == i % C`` and ``j <= i``;
- ``previous_row``: all of the row before, ``j // C == i // C - 1``; in the first row there is none, and it gets zero;
- ``dense``: every ``j <= i``;
- ``bidirectional``: every ``j``.

Child et al. (2019), Generating Long Sequences with Sparse Transformers; Dhariwal et al. (2020), Jukebox. Each
is a reshape around dense attention over short sequences, so that no mask of all pairs is ever made: row and
previous_row cost ``T * C``, column ``T * T / C``.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.transformer.cache import LayerCache

__all__ = ["Pattern", "SparseAttention", "attend"]

Pattern = Literal["row", "column", "previous_row", "dense", "bidirectional"]


def attend(queries: Tensor, keys: Tensor, values: Tensor, pattern: Pattern, block_length: int) -> Tensor:
    """Attend along a pattern.

    Args:
        queries: ``(batch, positions, heads, head_dim)``, any number of positions.
        keys: Likewise.
        values: Likewise.
        pattern: Which positions a position attends to.
        block_length: Positions of a row; without meaning for ``dense`` and ``bidirectional``.

    Returns:
        As ``values``; exactly zero where the pattern leaves nothing to attend to.
    """
    positions = queries.shape[1]
    if pattern in ("dense", "bidirectional"):
        return _attend(queries, keys, values, causal=pattern == "dense")
    if pattern == "row" and positions <= block_length:
        return _attend(queries, keys, values, causal=True)
    # What is appended comes after all that is real: rows and columns are causal, and a previous row is always whole.
    padding = -positions % block_length
    rows = [F.pad(part, (0, 0, 0, 0, 0, padding)) if padding else part for part in (queries, keys, values)]
    # (batch, rows, block_length, heads, head_dim)
    q, k, v = (torch.unflatten(part, 1, (-1, block_length)) for part in rows)
    if pattern == "row":
        by_row = _attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), causal=True)
        attended = torch.unflatten(by_row, 0, q.shape[:2])
    elif pattern == "column":
        q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (q, k, v))
        attended = torch.unflatten(_attend(q, k, v, causal=True), 0, (-1, block_length)).transpose(1, 2)
    else:
        attended = _attend_to_previous_row(q, k, v)
    return attended.flatten(1, 2)[:, :positions]


def _attend_to_previous_row(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    if queries.shape[1] == 1:
        return values.new_zeros(values.shape)
    q, k, v = queries[:, 1:].flatten(0, 1), keys[:, :-1].flatten(0, 1), values[:, :-1].flatten(0, 1)
    attended = torch.unflatten(_attend(q, k, v, causal=False), 0, (len(queries), -1))
    return F.pad(attended, (0, 0, 0, 0, 0, 0, 1, 0))


def _attend(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    """Dense attention over ``(batch, positions, heads, head_dim)``."""
    q, k, v = (part.transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


class SparseAttention(nn.Module):
    """Multi-head self-attention along a pattern.

    Args:
        width: Channels that go in and come out.
        heads: Heads.
        pattern: Which positions a position attends to.
        block_length: Positions of a row.
        attention_width: Channels of the queries of all heads together; keys and values have as many.

    Raises:
        ConfigError: If the pattern is unknown, ``heads`` does not divide ``attention_width``, or ``block_length`` is
            not positive.
    """

    def __init__(self, width: int, heads: int, pattern: Pattern, block_length: int, attention_width: int) -> None:
        super().__init__()
        if pattern not in get_args(Pattern):
            raise ConfigError(f"unknown attention pattern {pattern!r}; use one of: {', '.join(get_args(Pattern))}")
        if heads < 1 or attention_width % heads or block_length < 1:
            raise ConfigError(
                f"attention wants heads that divide attention_width and a positive block_length, got {heads}, "
                f"{attention_width} and {block_length}"
            )
        self.heads = heads
        self.pattern: Pattern = pattern
        self.block_length = block_length
        self.project_in = nn.Linear(width, 3 * attention_width)
        self.project_out = nn.Linear(attention_width, width)

    def forward(self, hidden: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Attend.

        Args:
            hidden: ``(batch, positions, width)``.
            cache: What was read before; these positions follow it, and it keeps what later ones will need.

        Returns:
            ``(batch, positions, width)``.
        """
        q, k, v = torch.unflatten(self.project_in(hidden), -1, (3, self.heads, -1)).unbind(2)
        attended = attend(q, k, v, self.pattern, self.block_length) if cache is None else self._resume(q, k, v, cache)
        projected: Tensor = self.project_out(attended.flatten(2))
        return projected

    def _resume(self, queries: Tensor, keys: Tensor, values: Tensor, cache: LayerCache) -> Tensor:
        """Attend to what was read before as well."""
        if self.pattern == "bidirectional":
            raise ValueError("bidirectional attention cannot be continued: earlier positions would see later ones")
        keys, values = cache.append(keys, values)
        if queries.shape[1] == 1:
            attended = self._step(queries, keys, values, cache.position - 1)
        else:  # what is kept begins with a whole row, so that zeros before the queries put them in their places
            before = keys.shape[1] - queries.shape[1]
            padded = F.pad(queries, (0, 0, 0, 0, before, 0))
            attended = attend(padded, keys, values, self.pattern, self.block_length)[:, before:]
        cache.forget(self._first_needed(cache.position))
        return attended

    def _step(self, query: Tensor, keys: Tensor, values: Tensor, position: int) -> Tensor:
        """Attend from one position, reading its keys alone."""
        in_row = position % self.block_length
        if self.pattern == "previous_row":
            if position < self.block_length:
                return values.new_zeros(query.shape)
            keys, values = keys[:, : self.block_length], values[:, : self.block_length]
        elif self.pattern == "column":
            keys, values = keys[:, in_row :: self.block_length], values[:, in_row :: self.block_length]
        return _attend(query, keys, values, causal=False)

    def _first_needed(self, position: int) -> int:
        """Return the first position whose key this one or a later one attends to."""
        row = position // self.block_length
        first_row = {"row": row, "previous_row": max(row - 1, 0)}.get(self.pattern, 0)
        return first_row * self.block_length
