"""Streams of one frame rate brought to the frames of another."""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sonido_bench.features.spec import FrameGrid

__all__ = ["align"]


def align(stream: Tensor, source: FrameGrid, target: FrameGrid, frames: int) -> Tensor:
    """Give a stream the frames of another grid; the one way in which features and consumers meet in time.

    The stream is read as a signal that is linear between its frames' centres and constant before the first and after
    the last. A target as fast as the source or faster samples this signal at its centres. A slower target takes the
    signal's mean over each frame's extent (its exact integral), so that nothing is aliased. Both are one sparse matrix
    of non-negative rows that sum to one: constants stay, and no value leaves the range of the input.

    Args:
        stream: ``(batch, source frames, dim)``, any floating type.
        source: Where its frames lie.
        target: Where the wanted frames lie.
        frames: How many are wanted.

    Returns:
        ``(batch, frames, dim)``; the input itself where grids and lengths agree.

    Raises:
        ValueError: If the stream has no frames or another shape.
    """
    if stream.ndim != 3 or stream.shape[1] == 0:
        raise ValueError(f"expected a stream of shape (batch, frames, dim) with frames, got {tuple(stream.shape)}")
    if source == target and frames == stream.shape[1]:
        return stream
    batch, source_frames, dim = stream.shape
    rows, weights = _entries(source, target, (batch, source_frames), frames, stream.device, stream.dtype)
    # what a bag sums is a row of the matrix times the stream: one pass, each frame written once
    table = stream.contiguous().flatten(0, 1)
    aligned: Tensor = embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
    return aligned.view(batch, frames, dim)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what validation was the first to need, training must be able to save for backward
def _entries(
    source: FrameGrid,
    target: FrameGrid,
    shape: tuple[int, int],
    frames: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Non-zero entries of the matrix for each item of a batch, in the form that ``embedding_bag`` takes.

    Returns:
        Rows of the flattened stream, and their weights, both ``(batch * frames, entries)``.
    """
    batch, source_frames = shape
    columns, weights = _matrix(source, target, source_frames, frames)
    rows = columns + source_frames * torch.arange(batch)[:, None, None]
    return rows.flatten(0, 1).to(device), weights.repeat(batch, 1).to(device, dtype)


def _matrix(source: FrameGrid, target: FrameGrid, source_frames: int, frames: int) -> tuple[Tensor, Tensor]:
    """Non-zero entries of the (frames x source_frames) matrix.

    Returns:
        Columns, in which the edges repeat, and weights, float64, both ``(frames, entries)``.
    """
    centres = (target.centres(frames) - source.first_centre) * source.frame_rate  # in source frames
    centres = centres[:, None]
    extent = source.frame_rate / target.frame_rate  # of a target frame, in source frames
    if extent > 1 + 1e-9:
        first = torch.floor(centres - extent / 2)
        taps = first + torch.arange(math.ceil(extent) + 2, dtype=torch.float64)
        weights = _hat_integral(centres + extent / 2 - taps) - _hat_integral(centres - extent / 2 - taps)
    else:
        taps = torch.floor(centres) + torch.arange(2, dtype=torch.float64)
        weights = 1 - (centres - taps).abs()
    columns = taps.clamp(0, source_frames - 1).long()
    return columns, weights / weights.sum(dim=1, keepdim=True)


def _hat_integral(x: Tensor) -> Tensor:
    """Integral, from minus infinity to ``x``, of the triangle of height 1 over [-1, 1]."""
    x = x.clamp(-1, 1)
    return torch.where(x < 0, (1 + x) ** 2 / 2, 1 - (1 - x) ** 2 / 2)
