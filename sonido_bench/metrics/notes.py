"""Scores of transcribed notes.

Notes are ``(notes, 4)``: onset and offset in seconds, MIDI pitch, velocity. Everywhere both sides being empty is full
agreement, 1, and one side being empty is 0.
"""

from collections import defaultdict
from typing import Any

import numpy as np
from mir_eval import transcription, transcription_velocity
from mir_eval.util import midi_to_hz
from numpy.typing import NDArray

__all__ = ["NOTE_METRICS", "f1", "frame_f1", "matched_onsets", "note_scores"]

ONSET_TOLERANCE = 0.05
"""Seconds: the field's convention, mir_eval's default."""

NOTE_METRICS = ("note_f1", "note_offset_f1", "note_offset_velocity_f1")
"""What ``note_scores`` returns: onset and pitch; and offset; and velocity."""

Notes = NDArray[np.floating[Any]]


def note_scores(reference: Notes, estimate: Notes) -> dict[str, float]:
    """F1 of one clip's notes with mir_eval's settings.

    Onsets agree within 50 ms, pitches within 50 cents (in Hz), offsets within 50 ms or 20 % of the reference's
    length, velocities within 0.1 after mir_eval's rescaling. Notes without length are left out on both sides.

    Args:
        reference: ``(notes, 4)``.
        estimate: ``(notes, 4)``.

    Returns:
        ``note_f1``, ``note_offset_f1`` and ``note_offset_velocity_f1``, each in [0, 1].
    """
    reference, estimate = _sounding(reference), _sounding(estimate)
    if not len(reference) or not len(estimate):
        return dict.fromkeys(NOTE_METRICS, float(len(reference) == len(estimate)))
    times = [array for notes in (reference, estimate) for array in (notes[:, :2], midi_to_hz(notes[:, 2]))]
    onset = transcription.precision_recall_f1_overlap(*times, offset_ratio=None, onset_tolerance=ONSET_TOLERANCE)
    offset = transcription.precision_recall_f1_overlap(*times, onset_tolerance=ONSET_TOLERANCE)
    velocity = transcription_velocity.precision_recall_f1_overlap(
        *times[:2], reference[:, 3], *times[2:], estimate[:, 3], onset_tolerance=ONSET_TOLERANCE
    )
    return dict(zip(NOTE_METRICS, (float(scores[2]) for scores in (onset, offset, velocity)), strict=True))


def matched_onsets(reference: Notes, estimate: Notes) -> list[tuple[int, int]]:
    """Pair notes of equal pitch whose onsets agree within 50 ms.

    Each note has one partner at most and the number of pairs is the largest possible, as in mir_eval: on a line, two
    sorted lists and one tolerance, the greedy choice is optimal. This takes microseconds where mir_eval's matching
    takes milliseconds, so that training can afford the score after every validation.

    Args:
        reference: ``(notes, 4)`` with whole MIDI pitches.
        estimate: ``(notes, 4)`` with whole MIDI pitches.

    Returns:
        Pairs of row numbers.
    """
    pairs = []
    references, estimates = _by_pitch(reference), _by_pitch(estimate)
    for pitch in references.keys() & estimates.keys():
        wanted, found = references[pitch], estimates[pitch]
        i = j = 0
        while i < len(wanted) and j < len(found):
            difference = round(wanted[i][0] - found[j][0], 4)  # mir_eval's rounding
            if abs(difference) <= ONSET_TOLERANCE:
                pairs.append((wanted[i][1], found[j][1]))
                i, j = i + 1, j + 1
            elif difference < 0:
                i += 1
            else:
                j += 1
    return pairs


def f1(hits: int, references: int, estimates: int) -> float:
    """Harmonic mean of ``hits / references`` and ``hits / estimates``; 1 where there is nothing to find or found."""
    return 2 * hits / (references + estimates) if references + estimates else 1.0


def frame_f1(reference: NDArray[np.bool_], estimate: NDArray[np.bool_]) -> float:
    """F1 over the cells of a piano roll: hits, misses and false alarms of all frames and pitches together.

    Args:
        reference: ``(frames, pitches)``, true where a note sounds.
        estimate: The same shape.
    """
    return f1(int((reference & estimate).sum()), int(reference.sum()), int(estimate.sum()))


def _sounding(notes: Notes) -> NDArray[np.float64]:
    """Notes of positive length, in double precision: mir_eval refuses the others."""
    notes = notes[notes[:, 1] > notes[:, 0]]
    return notes.astype(np.float64)


def _by_pitch(notes: Notes) -> dict[int, list[tuple[float, int]]]:
    """Onset and row number of every note, sorted, by pitch."""
    groups: dict[int, list[tuple[float, int]]] = defaultdict(list)
    onsets, pitches = notes[:, 0].tolist(), notes[:, 2].tolist()
    for row, (onset, pitch) in enumerate(zip(onsets, pitches, strict=True)):
        groups[round(pitch)].append((onset, row))
    for group in groups.values():
        group.sort()
    return groups
