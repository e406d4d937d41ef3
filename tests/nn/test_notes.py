"""Targets and decoding of notes are each other's inverse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sonido_bench.metrics.notes import note_scores
from sonido_bench.nn.note_decoding import Thresholds, decode_notes
from sonido_bench.nn.note_targets import note_targets
from sonido_bench.nn.transcriber import NoteMaps

FRAMES, SECONDS = 120, 3.6
GRIDS = [(31.25, 0.0), (62.5, 0.008), (43.07, 0.0116)]
"""Frame rate and centre of the first frame."""


@st.composite
def clips(draw):
    """Notes of a clip; notes of one pitch are at least 0.2 s apart, as two triangles need."""
    notes = []
    for pitch in draw(st.sets(st.integers(21, 108), max_size=6)):
        time = 0.0
        for _ in range(draw(st.integers(1, 4))):
            onset = time + draw(st.floats(0.0, 0.6))
            offset = onset + draw(st.floats(0.06, 0.9))
            if offset > SECONDS - 0.9:
                break
            notes.append((onset, offset, pitch, draw(st.integers(1, 127))))
            time = offset + 0.2
    return torch.tensor(sorted(notes), dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize(("frame_rate", "first_centre"), GRIDS)
@given(batch=st.lists(clips(), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_perfect_maps_give_back_the_notes(frame_rate, first_centre, batch):
    frames = int(SECONDS * frame_rate)
    maps = note_targets(batch, frames, frame_rate, first_centre)
    decoded = decode_notes(maps, frame_rate, first_centre, Thresholds())
    assert len(decoded) == len(batch)
    for reference, estimate in zip(batch, decoded, strict=True):
        assert set(note_scores(reference.numpy(), estimate.numpy()).values()) == {1.0}
        order = [notes[notes[:, 2].argsort(stable=True)] for notes in (reference, estimate)]
        inside = order[0][:, 0] > 2 / frame_rate  # at the edge a neighbour is missing
        assert torch.allclose(order[0][inside, 0], order[1][inside, 0], atol=1e-3)
        assert torch.equal(order[0][:, 3], order[1][:, 3])


def naive_targets(notes, frames, frame_rate, first_centre):
    """The same labels, cell by cell."""
    onset, offset, frame = (torch.zeros(frames, 88) for _ in range(3))
    half_width = max(0.048, 1.5 / frame_rate)
    for start, stop, pitch, _ in notes.tolist():
        key = int(pitch) - 21
        for index in range(frames):
            centre = first_centre + index / frame_rate
            onset[index, key] = max(onset[index, key], 1 - abs(centre - start) / half_width)
            offset[index, key] = max(offset[index, key], 1 - abs(centre - stop) / half_width)
            first, last = (round((time - first_centre) * frame_rate) for time in (start, stop))
            frame[index, key] = max(frame[index, key], float(first <= index <= last))
    offset[onset >= offset] = 0
    return onset, offset, frame


def test_targets_equal_a_cell_by_cell_drawing():
    notes = torch.tensor([[0.1, 0.5, 60, 100], [0.5, 0.9, 60, 10], [0.31, 0.33, 21, 64], [1.0, 9.0, 108, 1]])
    maps = note_targets([notes, notes[:1]], 40, 31.25, 0.0)
    for found, expected in zip(maps[:3], naive_targets(notes, 40, 31.25, 0.0), strict=True):
        assert torch.allclose(found[0], expected, atol=1e-5)
    assert maps.onset[1].sum() == pytest.approx(float(naive_targets(notes[:1], 40, 31.25, 0.0)[0].sum()), abs=1e-5)
    assert maps.velocity[0].max() == pytest.approx(100 / 127)
    assert ((maps.velocity > 0) == (maps.onset >= 0.5)).all()


def test_no_offset_where_the_pitch_starts_again():
    maps = note_targets([torch.tensor([[0.32, 0.64, 60, 90], [0.64, 0.96, 60, 90]])], 40, 31.25, 0.0)
    assert maps.offset[0, 20, 39] == 0
    assert maps.offset[0, 30, 39] == pytest.approx(1)


def test_notes_that_cannot_be_drawn_are_left_out():
    notes = torch.tensor([[0.1, 0.4, 20, 90], [0.1, 0.4, 109, 90], [0.2, 0.2, 60, 90], [50.0, 51.0, 60, 90]])
    assert all(not each.any() for each in note_targets([notes, torch.zeros(0, 4)], 30, 31.25, 0.0))


def maps_of(onset, frame, offset=None):
    """Maps of one clip and one pitch, MIDI 60."""
    values = [onset, [0.0] * len(onset) if offset is None else offset, frame, [0.5] * len(onset)]
    maps = [torch.zeros(1, len(onset), 88) for _ in values]
    for each, row in zip(maps, values, strict=True):
        each[0, :, 39] = torch.tensor(row)
    return NoteMaps(*maps)


def test_a_note_ends_where_its_frames_do():
    [notes] = decode_notes(maps_of([0, 0.9, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0]), 10.0, 0.0, Thresholds())
    assert notes.tolist()[0] == pytest.approx([0.1, 0.35, 60, 64])


def test_a_note_ends_at_an_offset_before_its_frames_do():
    maps = maps_of([0, 0.9, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1], offset=[0, 0, 0, 0.8, 0, 0])
    [notes] = decode_notes(maps, 10.0, 0.0, Thresholds())
    assert notes.tolist()[0][:2] == pytest.approx([0.1, 0.3])


def test_a_note_ends_at_the_next_onset_and_at_the_end_of_the_clip():
    [notes] = decode_notes(maps_of([0, 0.9, 0, 0.9, 0, 0], [0, 1, 1, 1, 1, 1]), 10.0, 0.0, Thresholds())
    assert torch.allclose(notes[:, :2], torch.tensor([[0.1, 0.3], [0.3, 0.55]]))


def test_onsets_of_one_frame_and_equal_neighbours():
    [notes] = decode_notes(maps_of([0.0, 0.7, 0.7, 0.0, 0, 0.8], [1.0] * 6), 10.0, 0.0, Thresholds())
    assert torch.allclose(notes[:, 0], torch.tensor([0.15, 0.5]))
    assert (notes[:, 1] > notes[:, 0]).all()


def test_silence_has_no_notes():
    decoded = decode_notes(NoteMaps(*(torch.zeros(2, 10, 88) for _ in range(4))), 31.25, 0.0, Thresholds())
    assert [each.shape for each in decoded] == [(0, 4), (0, 4)]
