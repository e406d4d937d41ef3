import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sonido_bench.errors import DataError
from sonido_bench.foundation.jukebox.labels import LabelIds, SongLabels, label_vector, lyric_ids, lyric_window
from sonido_bench.foundation.jukebox.presets import prior_preset

TEXT = 'What\'s up, Zo\u00eb? (1 + 2) [x] - \\ #\u00a7\tEnd: "ok"!'


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_text("unknown;0\nZo\u00eb_Keating;7\nthe_beatles;3\nodd;name;5\n", encoding="utf-8")
    (tmp_path / "g.txt").write_text("unknown;0\nclassic;2\npop;1\nrock;4\nclassic pop;9\n", encoding="utf-8")
    return tmp_path / "a.txt", tmp_path / "g.txt"


def test_v2_takes_words_and_v3_takes_the_name(files):
    v2, v3 = LabelIds.read(*files, "v2"), LabelIds.read(*files, "v3")
    assert v2.artist_id("The  Beatles!") == 3
    assert v2.artist_id("Nobody") == 0
    assert v2.genre_ids("Classic Pop/Polka") == (2, 1, 0)
    assert v3.artist_id("the_BEATLES") == 3
    assert v3.artist_id("The Beatles") == 0
    assert v3.artist_id("Odd;Name") == 5
    assert v3.genre_ids("Classic Pop") == (9,)
    assert v3.genre_ids("polka") == (0,)


def test_json_files_hold_both_versions(tmp_path):
    path = tmp_path / "artists.json"
    path.write_text(json.dumps({"the beatles": 1, "the_beatles.v2": 2}))
    assert LabelIds.read(path, path, "v2").artists == {"the_beatles": 2}
    assert LabelIds.read(path, path, "v3").artists == {"the beatles": 1}


def test_damaged_or_missing_files_are_refused(tmp_path, files):
    with pytest.raises(DataError, match="lines of name;id"):
        LabelIds.read(tmp_path / "none.txt", files[1], "v2")
    for content in ("no number;x\n", "no separator\n"):
        (tmp_path / "bad.txt").write_text(content)
        with pytest.raises(DataError, match="lines of name;id"):
            LabelIds.read(files[0], tmp_path / "bad.txt", "v2")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(DataError, match="JSON object"):
        LabelIds.read(tmp_path / "bad.json", files[1], "v2")


def test_characters():
    assert lyric_ids("A\u00c1az09", "v2") == [1, 1, 27, 52, 53, 62]
    assert lyric_ids("+'", "v2") == [70, 71]
    assert lyric_ids("+'", "v3") == [70]
    assert lyric_ids("\u2019\\\n\u6f22#", "v3") == [70, 78, 78]
    assert max(lyric_ids("\n", "v2")) == 79


def test_characters_and_windows_are_those_of_transformers(tmp_path):
    tokenization = pytest.importorskip("transformers.models.deprecated.jukebox.tokenization_jukebox")
    modeling = pytest.importorskip("transformers.models.deprecated.jukebox.modeling_jukebox")
    paths = []
    for name, entries in {"a": {"x.v2": 3}, "g": {"deep.v2": 2, "house.v2": 5}, "l": {"a": 1}}.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(entries))
    text = TEXT.replace("+", "")  # theirs drops it in v2, whose vocabulary has it
    tokenizer = tokenization.JukeboxTokenizer(*map(str, paths), version=["v2"], n_genres=3)
    expected = tokenizer("X", "deep_house", text)["input_ids"][0][0].tolist()
    ids = LabelIds.read(*paths[:2], "v2")
    ours = lyric_ids(text, "v2")
    assert [0, 0, 0, ids.artist_id("X"), *ids.genre_ids("deep house"), -1, *ours] == expected
    long = torch.tensor([ours * 5])
    for offset in (0, 1000, 40_000, 90_000, 99_999):
        window, _ = modeling.get_relevant_lyric_tokens(long, 24, 100_000, offset, 3000)
        assert lyric_window(ours * 5, 24, 100_000, offset, 3000) == window[0].tolist()
    short, _ = modeling.get_relevant_lyric_tokens(torch.tensor([ours]), 99, 1000, 10, 30)
    assert lyric_window(ours, 99, 1000, 10, 30) == short[0].tolist()


@given(st.integers(0, 60), st.integers(1, 40), st.integers(1, 1000), st.floats(0, 1), st.integers(1, 500))
def test_windows_are_full_and_contiguous(characters, tokens, total, share, length):
    window = lyric_window(range(1, characters + 1), tokens, total, int(share * total), length)
    assert len(window) == tokens
    sung = [one for one in window if one]
    assert sung == window[tokens - len(sung) :]
    assert sung == list(range(sung[0], sung[0] + len(sung))) if sung else characters == 0
    assert len(sung) == min(characters, tokens)


def test_vector_of_the_published_features():
    vector = label_vector(prior_preset("5b"), SongLabels.unknown(62.0))
    assert vector.tolist() == [2_734_080, 0, 1_048_576, 0, 0, -1, -1, -1, -1]
    assert vector.dtype == torch.int64


def test_vector_with_lyrics_has_those_of_its_window():
    config = prior_preset("1b_lyrics")
    song = SongLabels(100 * 44_100, artist=5, genres=(6,), lyrics=tuple([1] * 1000 + [2] * 1000))
    start, end = (label_vector(config, song, offset) for offset in (0, 80 * 44_100))
    assert start.tolist() == [4_410_000, 0, 786_432, 5, 6, *[1] * 384]
    assert end.tolist()[5:] == [2] * 384
    assert label_vector(config, replace(song, lyrics=(3,))).tolist()[5:] == [0] * 383 + [3]


def test_times_out_of_range_are_refused_in_seconds():
    config = prior_preset("5b")
    with pytest.raises(ValueError, match=r"songs of 60 s to less than 600 s, got one of 24.00 s.*62 s"):
        label_vector(config, SongLabels.unknown(24.0))
    with pytest.raises(ValueError, match="less than 600 s, got one of 600"):
        label_vector(config, SongLabels(600 * 44_100))
    for offset in (-1, 62 * 44_100):
        with pytest.raises(ValueError, match=r"starts within the song .*of 23.78 s from .* in a song of 62.00 s"):
            label_vector(config, SongLabels.unknown(62.0), offset)
    assert label_vector(prior_preset("upsampler_0"), SongLabels(1000)).tolist()[:3] == [1000, 0, 65_536]


def test_ids_out_of_range_are_refused():
    config = prior_preset("tiny")
    for song, message in [
        (SongLabels(90_000, artist=5), "artist ids 0 to 4"),
        (SongLabels(90_000, genres=(4,)), "genre ids 0 to 3"),
        (SongLabels(90_000, genres=(0, 1, 2)), "1 to 2 genres, got 3"),
        (SongLabels(90_000, genres=()), "1 to 2 genres, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            label_vector(config, song)
    with pytest.raises(ValueError, match="lyric ids 0 to 78"):
        label_vector(prior_preset("tiny_lyrics"), SongLabels(90_000, lyrics=(79,)))
    with pytest.raises(ValueError, match="without labels"):
        label_vector(prior_preset("small"), SongLabels(90_000))
