import mir_eval
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonido_bench.datamodules.notes import ONSET_TOLERANCE, clip_notes, merge_notes

note = st.tuples(
    st.floats(0, 3, width=32), st.floats(0.0625, 2, width=32), st.integers(58, 62), st.integers(1, 127)
).map(lambda row: (row[0], row[0] + row[1], row[2], row[3]))


@given(st.lists(note, max_size=30))
@settings(max_examples=200, deadline=None)
def test_merged_notes_do_not_overlap(notes):
    merged = merge_notes(np.array(notes).reshape(-1, 4))
    assert (np.diff(merged[:, 0]) >= 0).all()
    assert (merged[:, 1] > merged[:, 0]).all()
    for pitch in {row[2] for row in notes}:
        same = merged[merged[:, 2] == pitch]
        assert len(same)
        assert (same[:-1, 1] <= same[1:, 0]).all()
        assert (np.diff(same[:, 0]) >= ONSET_TOLERANCE).all()
        assert same[:, 1].max() == max(row[1] for row in notes if row[2] == pitch) or len(same) > 1
    np.testing.assert_array_equal(merge_notes(merged), merged)
    if len(merged):
        intervals = merged.astype(np.float32)[:, :2]
        mir_eval.transcription.validate_intervals(intervals, intervals)


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ([], []),
        ([(0, 1, 60, 80), (0.04, 2, 60, 90)], [(0, 2, 60, 90)]),
        ([(0, 1, 60, 80), (0.05, 0.5, 60, 90)], [(0, 0.05, 60, 80), (0.05, 0.5, 60, 90)]),
        ([(0, 1, 60, 80), (0.04, 1, 60, 70), (0.08, 2, 60, 90)], [(0, 0.08, 60, 80), (0.08, 2, 60, 90)]),
        ([(0, 0.5, 60, 80), (1, 2, 60, 90)], [(0, 0.5, 60, 80), (1, 2, 60, 90)]),
        ([(0.01, 1, 64, 80), (0.01, 1, 60, 90)], [(0.01, 1, 60, 90), (0.01, 1, 64, 80)]),
    ],
)
def test_merging(notes, expected):
    np.testing.assert_array_equal(merge_notes(np.array(notes)), np.array(expected, float).reshape(-1, 4))


def test_clipping():
    notes = np.array(
        [(-1, 0.5, 60, 80), (5.5, 7, 61, 80), (6, 7, 62, 80), (1, 2, 20, 80), (1, 2, 109, 80), (1, 2, 21, 1)]
    )
    np.testing.assert_array_equal(clip_notes(notes, 6.0), [(0, 0.5, 60, 80), (5.5, 6, 61, 80), (1, 2, 21, 1)])
    assert clip_notes(np.array([]), 6.0).shape == (0, 4)
    assert notes[0, 0] == -1  # the caller's own
