"""Notes from maps over frames and pitches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sonido_bench.nn.note_targets import LOWEST_PITCH
from sonido_bench.nn.transcriber import NoteMaps

__all__ = ["Thresholds", "decode_notes"]


@dataclass(frozen=True)
class Thresholds:
    """Probabilities from which an onset, an offset and an active frame are believed."""

    onset: float = 0.5
    offset: float = 0.5
    frame: float = 0.5


def decode_notes(maps: NoteMaps, frame_rate: float, first_centre: float, thresholds: Thresholds) -> list[Tensor]:
    """Read notes from probabilities.

    A note starts at a local maximum of the onset map. It ends at the next offset maximum, at the first inactive
    frame, at the next onset of its pitch or at the end of the clip, whichever comes first. Times of maxima are read
    between frames from their neighbours, exactly so for the triangles of ``note_targets``.

    Args:
        maps: Probabilities, each ``(batch, frames, 88)``.
        frame_rate: In Hz.
        first_centre: Centre of frame 0, in seconds.
        thresholds: From which probability something counts.

    Returns:
        Per clip ``(notes, 4)`` float32: onset and offset (s), at least half a frame apart, MIDI pitch, velocity
        1..127; sorted by onset.
    """
    onset_peaks, offset_peaks = _peaks(maps.onset, thresholds.onset), _peaks(maps.offset, thresholds.offset)
    clip, frame, key = onset_peaks.nonzero(as_tuple=True)
    start = frame + _shift(maps.onset, clip, frame, key)
    stops = onset_peaks | offset_peaks | (maps.frame < thresholds.frame)
    stop = _next_stop(stops, clip, frame, key)
    end = _end(maps, (onset_peaks, offset_peaks), clip, stop, key)
    velocity = (maps.velocity[clip, frame, key] * 127).round().clamp(1, 127)
    onset, offset = start, torch.maximum(end, start + 0.5)
    seconds = [first_centre + time / frame_rate for time in (onset, offset)]
    notes = torch.stack([*seconds, (key + LOWEST_PITCH).to(onset.dtype), velocity], dim=1).float()
    order = onset.argsort(stable=True)
    order = order[clip[order].argsort(stable=True)]
    return list(torch.split(notes[order], torch.bincount(clip, minlength=len(maps.onset)).tolist()))


def _peaks(probability: Tensor, threshold: float) -> Tensor:
    """Mark local maxima over frames; of equal neighbours the first."""
    padded = functional.pad(probability, (0, 0, 1, 1))
    left, right = padded[:, :-2], padded[:, 2:]
    return (probability >= threshold) & (probability > left) & (probability >= right)


def _shift(probability: Tensor, clip: Tensor, frame: Tensor, key: Tensor) -> Tensor:
    """Distance from maxima at whole frames to those of triangles through their neighbours, in [-0.5, 0.5] frames."""
    last = probability.shape[1] - 1
    zero = probability.new_zeros(())
    left = torch.where(frame > 0, probability[clip, (frame - 1).clamp_min(0), key], zero)
    right = torch.where(frame < last, probability[clip, (frame + 1).clamp_max(last), key], zero)
    slope = probability[clip, frame, key] - torch.minimum(left, right)
    return ((right - left) / slope.clamp_min(1e-6) / 2).clamp(-0.5, 0.5)


def _next_stop(stops: Tensor, clip: Tensor, frame: Tensor, key: Tensor) -> Tensor:
    """For each note the first frame after its own in which its pitch stops; the number of frames if in none."""
    columns = functional.pad(stops.transpose(1, 2), (0, 1), value=True)  # one more frame, where every search ends
    positions = columns.flatten().nonzero().squeeze(1)
    first = (clip * columns.shape[1] + key) * columns.shape[2]
    return positions[torch.searchsorted(positions, first + frame, right=True)] - first


def _end(maps: NoteMaps, peaks: tuple[Tensor, Tensor], clip: Tensor, stop: Tensor, key: Tensor) -> Tensor:
    """Exact end of notes that stop at frame ``stop``: at a maximum, else half a frame before."""
    last = maps.onset.shape[1] - 1
    inside = stop.clamp_max(last)
    end = stop - 0.5
    for probability, peak in zip((maps.onset, maps.offset), peaks, strict=True):
        at_peak = peak[clip, inside, key] & (stop <= last)
        end = torch.where(at_peak, stop + _shift(probability, clip, inside, key), end)
    return end
