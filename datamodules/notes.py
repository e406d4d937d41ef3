"""Notes of several players as one piano roll can hold them."""

import numpy as np

__all__ = ["ONSET_TOLERANCE", "clip_notes", "merge_notes"]

ONSET_TOLERANCE = 0.05
"""Seconds: onsets of a pitch that lie closer are one, as transcription scores cannot tell them apart."""


def clip_notes(notes: np.ndarray, seconds: float, lowest: int = 21, highest: int = 108) -> np.ndarray:
    """Keep the part of each note that sounds within a clip, and pitches within a piano's range.

    Args:
        notes: Rows onset, offset, pitch, velocity, shape ``(notes, 4)``; times in seconds from the clip's start.
        seconds: Length of the clip.
        lowest: Lowest MIDI pitch that is kept.
        highest: Highest MIDI pitch that is kept.

    Returns:
        Float64 rows; none is of length zero, all lie within 0..seconds.
    """
    kept = np.array(notes, np.float64).reshape(-1, 4)
    kept[:, :2] = np.clip(kept[:, :2], 0, seconds)
    sounding = kept[:, 1] > kept[:, 0]
    return kept[sounding & (kept[:, 2] >= lowest) & (kept[:, 2] <= highest)]


def merge_notes(notes: np.ndarray, tolerance: float = ONSET_TOLERANCE) -> np.ndarray:
    """Merge notes of all players so that no two of a pitch overlap.

    Onsets of a pitch closer than ``tolerance`` to the one kept before are merged into it, with the greatest velocity
    and the latest offset; a later onset cuts the note that still sounds.

    Args:
        notes: Rows onset, offset, pitch, velocity, shape ``(notes, 4)``, in any order.
        tolerance: In seconds.

    Returns:
        Float64 rows, sorted by onset, then pitch.
    """
    rows = np.array(notes, np.float64).reshape(-1, 4)
    merged: list[list[float]] = []
    sounding: dict[float, list[float]] = {}  # the latest note of each pitch
    for onset, offset, pitch, velocity in rows[np.lexsort((rows[:, 2], rows[:, 0]))].tolist():
        earlier = sounding.get(pitch)
        if earlier is not None and onset - earlier[0] < tolerance:
            earlier[1], earlier[3] = max(earlier[1], offset), max(earlier[3], velocity)
            continue
        if earlier is not None:
            earlier[1] = min(earlier[1], onset)
        sounding[pitch] = [onset, offset, pitch, velocity]
        merged.append(sounding[pitch])
    return np.array(merged, np.float64).reshape(-1, 4)
