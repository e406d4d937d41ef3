import numpy as np
import pytest
import torch

from sonido_bench.errors import DataError
from sonido_bench.foundation.tokens import TokenWindows, read_index, write_tokens

RATIOS = {"top": 1, "mid": 2}


def track(number, frames):
    """Tokens and embedding that tell their recording, and place: top frame t is t, mid frames 2 t and 2 t + 1."""
    top = np.stack([np.full(frames, number), np.arange(frames)], axis=1)
    mid = np.stack([np.full(2 * frames, number), np.arange(2 * frames)], axis=1)
    condition = np.array([number, -number, 0.1], dtype=np.float16)
    return {"top": top.astype(np.uint8), "mid": mid.astype(np.uint8), "condition": condition}


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    write_tokens(folder / "train-00000.safetensors", [("a/0", track(0, 40)), ("sub/b.wav/1", track(1, 20))])
    write_tokens(folder / "train-00001.safetensors", [("c/0", track(2, 5)), ("d/0", track(3, 15))])
    return read_index(sorted(folder.glob("train-*")), "top")


def test_the_index_names_what_was_written(tracks):
    assert [(entry.key, entry.frames) for entry in tracks] == [
        ("a/0", 40),
        ("sub/b.wav/1", 20),
        ("c/0", 5),
        ("d/0", 15),
    ]


def test_levels_of_a_window_cover_the_same_time(tracks):
    windows = TokenWindows(tracks, 12, RATIOS, seed=0)
    for item in range(50):
        window = windows[item]
        top, mid = window["top"][0], window["mid"][0]
        assert top.shape == (12, 2)
        assert mid.shape == (24, 2)
        assert top.dtype == torch.int64
        assert torch.equal(top[:, 0], mid[::2, 0])
        assert torch.equal(2 * top[:, 1], mid[::2, 1])
        assert torch.equal(2 * top[:, 1] + 1, mid[1::2, 1])


def test_windows_lie_within_a_recording_unless_it_is_too_short(tracks):
    windows = TokenWindows(tracks, 12, RATIOS, seed=0)
    for item in range(100):
        recordings, places = windows[item]["top"][0].unbind(1)
        if recordings[0] != 2:  # the short one
            assert (recordings == recordings[0]).all()
            assert torch.equal(places.diff(), torch.ones(11, dtype=torch.int64))
        else:
            assert (recordings[:5] == 2).all()


def test_recordings_are_drawn_in_proportion_to_their_length(tracks):
    windows = TokenWindows(tracks, 5, {"top": 1}, seed=3)
    counts = np.bincount([int(windows[item]["top"][0, 0, 0]) for item in range(2000)], minlength=4)
    np.testing.assert_allclose(counts / 2000, np.array([40, 20, 5, 15]) / 80, atol=0.04)
    starts = {int(windows[item]["top"][0, 0, 1]) for item in range(2000) if windows[item]["top"][0, 0, 0] == 3}
    assert starts == set(range(11))


def test_draws_follow_seed_and_number(tracks):
    first, second = (TokenWindows(tracks, 8, RATIOS, seed=1) for _ in range(2))
    assert all(torch.equal(first[item]["mid"], second[item]["mid"]) for item in (7, 3, 7, 10**12))
    assert any(not torch.equal(first[i]["mid"], TokenWindows(tracks, 8, RATIOS, seed=2)[i]["mid"]) for i in range(3))


def test_the_condition_of_a_window_is_that_of_its_first_recording(tracks):
    windows = TokenWindows(tracks, 12, RATIOS, seed=0, condition=True)
    packed = 0
    for item in range(100):
        window = windows[item]
        first = int(window["top"][0, 0, 0])
        expected = torch.tensor([[first, -first, 0.1]], dtype=torch.float16).float()
        assert window["condition"].dtype == torch.float32
        assert torch.equal(window["condition"], expected)
        packed += len(window["top"][0, :, 0].unique()) > 1
    assert packed > 3


def test_the_condition_changes_no_draw_and_is_given_only_where_asked_for(tracks):
    plain, conditioned = (TokenWindows(tracks, 12, RATIOS, seed=0, condition=asked) for asked in (False, True))
    for item in range(20):
        assert plain[item].keys() == {"top", "mid"}
        assert all(torch.equal(values, conditioned[item][level]) for level, values in plain[item].items())


def test_training_windows_have_no_end(tracks):
    assert len(TokenWindows(tracks, 8, RATIOS, seed=1, length=5)) == 5
    with pytest.raises(TypeError, match="no end"):
        len(TokenWindows(tracks, 8, RATIOS, seed=1))
    with pytest.raises(DataError, match="expected tokens"):
        TokenWindows([], 8, RATIOS, seed=1)


def test_an_interrupted_shard_leaves_nothing_behind(tmp_path):
    def interrupted():
        yield "a/0", track(0, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "train-00000.safetensors", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_shard_is_named(tmp_path):
    path = tmp_path / "train-00000.safetensors"
    write_tokens(path, [("a/0", track(0, 30))])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-00000\.safetensors: damaged tokens"):
        read_index([path], "top")
