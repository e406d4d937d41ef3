from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonido_bench.features.windows import kept_from_the_earlier, split


@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 59), st.sampled_from([1, 7, 512]))
def test_kept_parts_tile_the_recording(samples, window, overlap, hop):
    if overlap >= window:
        overlap = window - 1
    windows = split(samples * hop, window * hop, overlap * hop, hop)
    assert windows[0].keep_start == 0
    assert windows[-1].keep_end == samples * hop
    assert all(left.keep_end == right.keep_start for left, right in pairwise(windows))
    for w in windows:
        assert 0 <= w.start <= w.keep_start < w.keep_end <= w.end <= samples * hop
        assert all(position % hop == 0 for position in (w.start, w.end, w.keep_start, w.keep_end))
        assert w.end - w.start == min(window, samples) * hop
    context = (overlap // 2 - 1) * hop
    assert all(w.keep_start - w.start >= context for w in windows[1:])
    assert all(w.end - w.keep_end >= context for w in windows[:-1])


def test_overlap_must_be_shorter_than_the_window():
    with pytest.raises(ValueError, match="overlap below the window"):
        split(100, 10, 10, 1)


@pytest.mark.parametrize("samples", [10, 40, 41, 75, 200])
@pytest.mark.parametrize("ahead", [0, 3])
def test_kept_from_the_earlier_tiles_and_leaves_what_lies_ahead_to_the_next(samples, ahead):
    windows = kept_from_the_earlier(split(samples, 40, 10, 1), ahead)
    kept = [place for window in windows for place in range(window.keep_start, window.keep_end)]
    assert kept == list(range(samples))
    assert all(window.end - window.keep_end == ahead for window in windows[:-1])
    assert all(window.keep_start - window.start >= 10 - ahead for window in windows[1:])
