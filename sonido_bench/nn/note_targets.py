"""Notes as maps over frames and pitches, for training."""

import math

import torch
from torch import Tensor

from sonido_bench.nn.transcriber import PITCHES, NoteMaps

__all__ = ["LOWEST_PITCH", "note_targets"]

LOWEST_PITCH = 21
"""MIDI number of the lowest piano key (A0)."""

_HALF_WIDTH = 0.048
"""Seconds over which an onset's label falls to zero: three frames of 16 ms, as hFT-Transformer's labels."""


def note_targets(notes: list[Tensor], frames: int, frame_rate: float, first_centre: float) -> NoteMaps:
    """Draw the notes of a batch.

    Onsets and offsets are triangles, highest at the note's exact time (hFT-Transformer, Toyama et al. 2023): at
    coarser frames they are widened to 1.5 frames, the least from which the exact time can be read back. An offset has
    no label where the same pitch starts again at once. A frame is active from the onset's frame to the offset's.

    Args:
        notes: Per clip ``(notes, 4)``: onset and offset (s), MIDI pitch, velocity. Those outside the piano's range
            are left out: the network has no output for them.
        frames: Frames of the maps.
        frame_rate: In Hz.
        first_centre: Centre of frame 0, in seconds.

    Returns:
        Values in [0, 1], each ``(batch, frames, 88)``; velocity is divided by 127, and 0 where the onset label is
        under 0.5.
    """
    device = notes[0].device
    clip = torch.repeat_interleave(torch.tensor([len(each) for each in notes])).to(device)
    onset, offset, pitch, velocity = torch.cat(notes).unbind(1)
    key = pitch.round().long() - LOWEST_PITCH
    known = (key >= 0) & (key < PITCHES) & (offset > onset)
    clip, key, velocity = clip[known], key[known], velocity[known]
    starts, stops = ((time[known] - first_centre) * frame_rate for time in (onset, offset))
    half_width = max(_HALF_WIDTH * frame_rate, 1.5)
    draw = _Canvas(len(notes), frames, clip, key)

    onsets, offsets = draw.triangles(starts, half_width), draw.triangles(stops, half_width)
    velocities = draw.triangles(starts, half_width, velocity / 127)
    return NoteMaps(
        onset=onsets,
        offset=offsets.masked_fill(onsets >= torch.where(offsets > 0, offsets, 2.0), 0.0),
        frame=draw.bars(starts, stops),
        velocity=velocities,
    )


class _Canvas:
    """Draws one mark per note, without a loop over notes or frames."""

    def __init__(self, batch: int, frames: int, clip: Tensor, key: Tensor) -> None:
        self.shape = (batch, frames, PITCHES)
        self.frames = frames
        self.first = clip * frames * PITCHES + key
        """Where in the flat map each note's pitch has its frame 0."""

    def triangles(self, position: Tensor, half_width: float, value: Tensor | None = None) -> Tensor:
        """Draw a triangle at each position (in frames), or ``value`` where the triangle is at least 0.5."""
        reach = math.ceil(half_width)
        frame = position.round().long().unsqueeze(1) + torch.arange(-reach, reach + 1, device=position.device)
        height = 1 - (frame - position.unsqueeze(1)).abs() / half_width
        inside = (frame >= 0) & (frame < self.frames) & (height > 0)
        if value is not None:
            height = value.unsqueeze(1) * (height >= 0.5)
        index = self.first.unsqueeze(1) + frame * PITCHES
        flat = torch.zeros(math.prod(self.shape), device=position.device)
        flat.scatter_reduce_(0, index[inside], height[inside].to(flat.dtype), "amax")
        return flat.view(self.shape)

    def bars(self, start: Tensor, stop: Tensor) -> Tensor:
        """Draw ones from the frame nearest to ``start`` to the one nearest to ``stop``, both included."""
        batch, frames, _ = self.shape
        edges = torch.zeros(batch, frames + 1, PITCHES, device=start.device)
        shifted = self.first + self.first.div(frames * PITCHES, rounding_mode="floor") * PITCHES
        for edge, sign in ((start.round(), 1.0), (stop.round() + 1, -1.0)):
            index = shifted + edge.clamp(0, frames).long() * PITCHES
            edges.view(-1).scatter_add_(0, index, torch.full_like(index, sign, dtype=edges.dtype))
        return (edges.cumsum(1)[:, :frames] > 0.5).float()
