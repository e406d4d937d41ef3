"""Thresholds of a transcription, chosen on the validation set."""

import numpy as np
import torch
from torch import Tensor

from sonido_bench.features.spec import FrameGrid
from sonido_bench.metrics.notes import Notes, f1, matched_onsets
from sonido_bench.nn.note_decoding import Thresholds, decode_notes
from sonido_bench.nn.note_targets import note_targets
from sonido_bench.nn.transcriber import NoteMaps

__all__ = ["ONSET_GRID", "choose_thresholds", "decode_clips"]

ONSET_GRID = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
_FRAME_GRID = (0.2, 0.3, 0.4, 0.5)
_OFFSET_GRID = (0.2, 0.35, 0.5, 2.0)
"""2: offsets come from inactive frames alone."""


def choose_thresholds(maps: NoteMaps, notes: list[Tensor], grid: FrameGrid) -> tuple[Thresholds, dict[str, float]]:
    """Choose thresholds one after the other, each by the score that it decides.

    The onset's by the mean F1 of notes (onset and pitch), the frame's by the F1 of all frames together, the offset's
    by the mean F1 of notes with offset among the notes whose onsets were paired: close to mir_eval's, and quick.

    Args:
        maps: Probabilities of all clips, each ``(clips, frames, 88)``.
        notes: True notes of each clip.
        grid: Where the frames lie.

    Returns:
        The thresholds, and the scores ``note_f1`` and ``frame_f1`` that they reach on these clips.
    """
    truth = [each.numpy() for each in notes]
    note, onset = max((_note_f1(maps, truth, grid, Thresholds(onset=value)), value) for value in ONSET_GRID)
    active = note_targets(notes, maps.frame.shape[1], grid.frame_rate, grid.first_centre).frame > 0.5
    frame, frame_threshold = max((_roll_f1(active, maps.frame >= value), value) for value in _FRAME_GRID)
    candidates = [Thresholds(onset, value, frame_threshold) for value in _OFFSET_GRID]
    _, chosen = max(((_offset_f1(maps, truth, grid, each), -i) for i, each in enumerate(candidates)))
    return candidates[-chosen], {"note_f1": note, "frame_f1": frame}


def decode_clips(maps: NoteMaps, grid: FrameGrid, thresholds: Thresholds) -> list[Notes]:
    """Decode the notes of each clip as arrays."""
    return [notes.numpy() for notes in decode_notes(maps, grid.frame_rate, grid.first_centre, thresholds)]


def _note_f1(maps: NoteMaps, truth: list[Notes], grid: FrameGrid, thresholds: Thresholds) -> float:
    """Mean F1 of onsets and pitches over clips."""
    estimates = decode_clips(maps, grid, thresholds)
    clips = zip(truth, estimates, strict=True)
    return float(np.mean([f1(len(matched_onsets(r, e)), len(r), len(e)) for r, e in clips]))


def _offset_f1(maps: NoteMaps, truth: list[Notes], grid: FrameGrid, thresholds: Thresholds) -> float:
    """Mean F1 of notes whose onsets were paired and whose offsets agree as well."""
    scores = []
    for reference, estimate in zip(truth, decode_clips(maps, grid, thresholds), strict=True):
        pairs = np.array(matched_onsets(reference, estimate), dtype=np.int64).reshape(-1, 2)
        wanted, found = reference[pairs[:, 0]], estimate[pairs[:, 1]]
        tolerance = np.maximum(0.05, 0.2 * (wanted[:, 1] - wanted[:, 0]))
        hits = int((np.abs(wanted[:, 1] - found[:, 1]) <= tolerance).sum())
        scores.append(f1(hits, len(reference), len(estimate)))
    return float(np.mean(scores))


def _roll_f1(reference: Tensor, estimate: Tensor) -> float:
    """F1 over all cells of all clips."""
    return f1(int(torch.sum(reference & estimate)), int(reference.sum()), int(estimate.sum()))
