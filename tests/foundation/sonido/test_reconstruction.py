import pytest
import torch

from sonido_bench.audio import read_audio, write_audio
from sonido_bench.errors import DataError
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint
from sonido_bench.foundation.sonido.reconstruction import level_prefixes, reconstruct
from tests.foundation.sonido.tiny_model import CARD, RATE, music, tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("reconstruction") / "model"
    save_checkpoint(path, tiny_model(), CARD)
    return path


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (11025, 2)])
def test_each_level_gives_audio_as_long_as_the_source(checkpoint, tmp_path, rate, channels):
    write_audio(tmp_path / "song.wav", music(2.0).expand(channels, -1)[:, :9999], rate)
    paths = reconstruct(checkpoint, tmp_path / "song.wav", tmp_path / "out")
    assert {name: path.name for name, path in paths.items()} == {
        "top": "song.top.wav",
        "top+mid": "song.top+mid.wav",
        "top+mid+bottom": "song.top+mid+bottom.wav",
    }
    found = {name: read_audio(path) for name, path in paths.items()}
    assert all(rate == RATE for _, rate in found.values())
    assert all(audio.shape == (1, -(-9999 * RATE // rate)) for audio, _ in found.values())
    assert not torch.equal(found["top"][0], found["top+mid"][0])


def test_reconstruction_is_decoding_of_the_tokens(checkpoint, tmp_path):
    audio = music(2.0)
    write_audio(tmp_path / "song.wav", audio, RATE)
    paths = reconstruct(checkpoint, tmp_path / "song.wav", tmp_path)
    model = load_checkpoint(checkpoint)
    tokens = model.encode(read_audio(tmp_path / "song.wav")[0])
    for name, path in paths.items():
        expected = model.decode({level: tokens[level] for level in name.split("+")}).clamp(-1, 1)
        assert torch.allclose(read_audio(path)[0], expected, atol=1e-4)


def test_unreadable_audio_is_refused(checkpoint, tmp_path):
    (tmp_path / "song.wav").write_text("no audio")
    with pytest.raises(DataError, match=r"song\.wav: expected readable audio"):
        reconstruct(checkpoint, tmp_path / "song.wav", tmp_path)


def test_prefixes_run_from_coarse_to_fine():
    assert level_prefixes(["top", "mid"]) == [("top",), ("top", "mid")]
