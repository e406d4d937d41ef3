"""Attention over a part of the sequence: the factorised patterns of sparse transformers.

A sequence is laid out in rows of ``block_length`` positions. With ``C`` positions a row, position ``i`` attends to

- ``row``: the positions of its row up to itself, ``j // C == i // C`` and ``j <= i``;
- ``column``: those above it in its column and itself, ``j % C == i % C`` and ``j <= i``;
- ``previous_row``: all of the row before, ``j // C == i // C - 1``; in the first row there is none, and it gets zero;
- ``prime``: every ``j <= i`` among the first ``P``, ``j < P``, where lyrics stand in front of music;
- ``dense``: every ``j <= i``;
- ``bidirectional``: every ``j``;
- ``cross``: all of another sequence, the context.

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

Pattern = Literal["row", "column", "previous_row", "prime", "dense", "bidirectional", "cross"]


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, pattern: Pattern, block_length: int, prime_length: int = 0
) -> Tensor:
    """Attend along a pattern.

    Args:
        queries: ``(batch, positions, heads, head_dim)``, any number of positions.
        keys: Likewise; of the context, of any length, for ``cross``.
        values: As the keys.
        pattern: Which positions a position attends to.
        block_length: Positions of a row; without meaning for ``prime``, ``dense``, ``bidirectional`` and ``cross``.
        prime_length: ``P`` of ``prime``; without meaning for the others.

    Returns:
        As the queries; exactly zero where the pattern leaves nothing to attend to.
    """
    positions = queries.shape[1]
    if pattern == "prime" and positions > prime_length:
        first = _attend(queries[:, :prime_length], keys[:, :prime_length], values[:, :prime_length], causal=True)
        rest = _attend(queries[:, prime_length:], keys[:, :prime_length], values[:, :prime_length], causal=False)
        return torch.cat([first, rest], dim=1)
    if pattern in ("prime", "dense", "bidirectional", "cross"):
        return _attend(queries, keys, values, causal=pattern in ("prime", "dense"))
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


def _attend(queries: Tensor, keys: Tensor, values: Tensor, causal: bool, mask: Tensor | None = None) -> Tensor:
    """Dense attention over ``(batch, positions, heads, head_dim)``."""
    q, k, v = (part.transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2)


def _attend_behind(queries: Tensor, keys: Tensor, values: Tensor, pattern: Pattern, block_length: int) -> Tensor:
    """Attend from the last positions of ``column``, ``dense`` or ``prime`` alone, others having been read before.

    Args:
        queries: ``(batch, positions, heads, head_dim)``, the last of all positions.
        keys: ``(batch, positions before and these, heads, head_dim)``.
        values: Likewise.
        pattern: One of the three; of ``prime``, these are keys of the first ``P`` positions.
        block_length: Positions of a row.
    """
    length, before = queries.shape[1], keys.shape[1] - queries.shape[1]
    j = torch.arange(keys.shape[1], device=keys.device)
    if pattern != "column":
        return _attend(queries, keys, values, causal=False, mask=j <= j[before:, None])
    # Zeros in front of the queries and behind all give whole rows; what is behind is seen by nobody that is real.
    front, behind = before % block_length, -(before + length) % block_length
    parts = [F.pad(queries, (0, 0, 0, 0, front, behind))] + [
        F.pad(part, (0, 0, 0, 0, 0, behind)) for part in (keys, values)
    ]
    q, k, v = (torch.unflatten(part, 1, (-1, block_length)).transpose(1, 2).flatten(0, 1) for part in parts)
    row = torch.arange(k.shape[1], device=keys.device)
    by_column = _attend(q, k, v, causal=False, mask=row <= row[before // block_length :, None])
    attended = torch.unflatten(by_column, 0, (-1, block_length)).transpose(1, 2)
    return attended.flatten(1, 2)[:, front : front + length]


class SparseAttention(nn.Module):
    """Multi-head attention along a pattern.

    Args:
        width: Channels that go in and come out, and of the context of ``cross``.
        heads: Heads.
        pattern: Which positions a position attends to.
        block_length: Positions of a row.
        attention_width: Channels of the queries of all heads together; keys and values have as many.
        prime_length: Positions that ``prime`` attends to.

    Raises:
        ConfigError: If the pattern is unknown, ``heads`` does not divide ``attention_width``, ``block_length`` is not
            positive, or ``prime`` lacks its length.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        pattern: Pattern,
        block_length: int,
        attention_width: int,
        prime_length: int = 0,
    ) -> None:
        super().__init__()
        if pattern not in get_args(Pattern):
            raise ConfigError(f"unknown attention pattern {pattern!r}; use one of: {', '.join(get_args(Pattern))}")
        if heads < 1 or attention_width % heads or block_length < 1:
            raise ConfigError(
                f"attention wants heads that divide attention_width and a positive block_length, got {heads}, "
                f"{attention_width} and {block_length}"
            )
        if pattern == "prime" and prime_length < 1:
            raise ConfigError(f"attention to the prime wants a positive prime_length, got {prime_length}")
        self.heads = heads
        self.pattern: Pattern = pattern
        self.block_length, self.prime_length = block_length, prime_length
        self.project_in = nn.Linear(width, attention_width if pattern == "cross" else 3 * attention_width)
        if pattern == "cross":
            self.project_context = nn.Linear(width, 2 * attention_width)
        self.project_out = nn.Linear(attention_width, width)

    def forward(self, hidden: Tensor, cache: LayerCache | None = None, context: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            hidden: ``(batch, positions, width)``.
            cache: What was read before; these positions follow it, and it keeps what later ones will need.
            context: ``(batch, any positions, width)``, for ``cross`` alone; what a cache has read of it stays.

        Returns:
            ``(batch, positions, width)``.

        Raises:
            ValueError: If ``cross`` lacks its context, or what is read cannot be continued.
        """
        if self.pattern == "cross":
            attended = self._cross(hidden, cache, context)
        else:
            qkv = self.project_in(hidden).view(hidden.shape[0], hidden.shape[1], 3, self.heads, -1)
            q, k, v = qkv.unbind(2)
            if cache is None:
                attended = attend(q, k, v, self.pattern, self.block_length, self.prime_length)
            else:
                attended = self._resume(q, k, v, cache)
        projected: Tensor = self.project_out(attended.flatten(2))
        return projected

    def _cross(self, hidden: Tensor, cache: LayerCache | None, context: Tensor | None) -> Tensor:
        queries = torch.unflatten(self.project_in(hidden), -1, (self.heads, -1))
        if cache is not None and cache.length:
            keys, values = cache.kept
        elif context is None:
            raise ValueError("cross attention wants a context (batch, positions, width), got none")
        else:
            projected = self.project_context(context.to(self.project_context.weight.dtype))
            keys, values = torch.unflatten(projected, -1, (2, self.heads, -1)).unbind(2)
            if cache is not None:
                keys, values = cache.append(keys, values)
                cache.position = 0  # they are no positions of this sequence
        if cache is not None:
            cache.skip(hidden.shape[1])
        return _attend(queries, keys, values, causal=False)

    def _resume(self, queries: Tensor, keys: Tensor, values: Tensor, cache: LayerCache) -> Tensor:
        """Attend to what was read before as well."""
        if self.pattern == "bidirectional":
            raise ValueError("bidirectional attention cannot be continued: earlier positions would see later ones")
        if self.pattern == "prime":
            return self._resume_prime(queries, keys, values, cache)
        room = {"row": self.block_length, "previous_row": 2 * self.block_length}.get(self.pattern, cache.expected)
        keys, values = cache.append(keys, values, room)
        before = keys.shape[1] - queries.shape[1]
        if queries.shape[1] == 1:
            attended = self._step(queries, keys, values, cache.position - 1)
        elif before and self.pattern in ("column", "dense"):
            attended = _attend_behind(queries, keys, values, self.pattern, self.block_length)
        else:  # what is kept begins with a whole row, so that zeros before the queries put them in their places
            padded = F.pad(queries, (0, 0, 0, 0, before, 0))
            attended = attend(padded, keys, values, self.pattern, self.block_length)[:, before:]
        cache.forget(self._first_needed(cache.position), room)
        return attended

    def _resume_prime(self, queries: Tensor, keys: Tensor, values: Tensor, cache: LayerCache) -> Tensor:
        length, before = queries.shape[1], cache.position
        inside = max(min(self.prime_length - before, length), 0)
        if inside:
            cache.append(keys[:, :inside], values[:, :inside], self.prime_length)
        cache.skip(length - inside)
        keys, values = cache.kept
        if length == 1 or not inside:
            return _attend(queries, keys, values, causal=False)
        first = _attend_behind(queries[:, :inside], keys, values, "prime", self.block_length)
        rest = _attend(queries[:, inside:], keys, values, causal=False)
        return torch.cat([first, rest], dim=1)

    def _step(self, query: Tensor, keys: Tensor, values: Tensor, position: int) -> Tensor:
        """Attend from one position, reading its keys alone."""
        if self.pattern == "previous_row":
            if position < self.block_length:
                return values.new_zeros(query.shape)
            keys, values = keys[:, : self.block_length], values[:, : self.block_length]
        elif self.pattern == "column":
            in_row = position % self.block_length
            keys, values = keys[:, in_row :: self.block_length], values[:, in_row :: self.block_length]
        return _attend(query, keys, values, causal=False)

    def _first_needed(self, position: int) -> int:
        """Return the first position whose key this one or a later one attends to."""
        if self.pattern not in ("row", "previous_row"):
            return 0
        row = position // self.block_length
        return (row if self.pattern == "row" else max(row - 1, 0)) * self.block_length
