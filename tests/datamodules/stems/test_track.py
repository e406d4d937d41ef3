from itertools import accumulate

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sonido_bench.datamodules.stems.audio_file import examine
from sonido_bench.datamodules.stems.batch import StemFormat, downmix
from sonido_bench.datamodules.stems.track import StemTrack, grid
from sonido_bench.errors import ConfigError

RATE = 8000
FORMAT = StemFormat(("a", "b", "c"), "stems", RATE, 2)


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    folder = tmp_path_factory.mktemp("track")
    rng = np.random.default_rng(0)
    for name, frames in {"a1": 20_001, "a2": 20_001, "b": 9_000}.items():
        soundfile.write(folder / f"{name}.wav", rng.uniform(-0.3, 0.3, (frames, 2)), RATE, subtype="FLOAT")
    one, two, b = (examine(folder / f"{name}.wav") for name in ("a1", "a2", "b"))
    return StemTrack("song", {"a": (one, two), "b": (b,), "c": ()})


def test_files_of_a_stem_are_added_and_absent_ones_are_silent(track):
    stems, mixture = track.read(100, 5000, FORMAT)
    first, second = (soundfile.read(file.path, dtype="float32")[0].T for file in track.stems["a"])
    torch.testing.assert_close(stems[0], torch.from_numpy((first + second)[:, 100:5100].copy()))
    assert not stems[2].any()
    assert torch.equal(mixture, stems.sum(dim=0))
    assert track.samples(RATE) == 20_001


def test_a_stem_that_ends_is_followed_by_silence(track):
    stem = track.read_stem("b", 8_500, 2_000, FORMAT)
    assert stem[:, :500].abs().max() > 0
    assert not stem[:, 500:].any()


def test_chunks_join_to_the_whole(track):
    whole, mixture = track.read(0, track.samples(RATE), FORMAT)
    starts, stems, mixtures = zip(*track.chunks(0.7, FORMAT), strict=True)
    assert starts == (0, 5600, 11200, 16800)
    assert max(chunk.shape[-1] for chunk in stems) < 1.5 * 5600
    assert torch.equal(torch.cat(stems, dim=-1), whole)
    assert torch.equal(torch.cat(mixtures, dim=-1), mixture)


@given(st.integers(0, 10_000), st.integers(20, 900))
@settings(deadline=None)
def test_a_grid_covers_all_once(samples, chunk):
    places = grid(samples, chunk)
    ends = list(accumulate((length for _, length in places), initial=0))
    assert [start for start, _ in places] == ends[:-1]
    assert ends[-1] == samples
    assert all(length == chunk for _, length in places[:-1])
    if len(places) > 1:
        assert chunk <= 2 * places[-1][1] < 3 * chunk


def test_downmix():
    stems = torch.arange(12.0).reshape(1, 3, 2, 2)
    assert torch.equal(downmix(stems), torch.tensor([[[15.0, 18.0]]]))  # means of 0+4+8, 2+6+10 and of 1+5+9, 3+7+11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("a",), "vocals"), "target must be one of stems, mix, got 'vocals'"),
        (((),), "one or more stems"),
        ((("a", "a"),), "names of their own"),
        ((("a",), "stems", 0), "sample_rate and channels must be at least 1"),
    ],
)
def test_wrong_formats(arguments, message):
    with pytest.raises(ConfigError, match=message):
        StemFormat(*arguments)
