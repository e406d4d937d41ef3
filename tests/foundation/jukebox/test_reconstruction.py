import pytest
import torch

from sonido_bench.audio import read_audio, read_mono, write_audio
from sonido_bench.errors import DataError
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.jukebox.folder import jukebox_vqvae
from sonido_bench.foundation.jukebox.reconstruction import reconstruct
from tests.foundation.jukebox.tiny_jukebox import CARD, HOP, RATE, jukebox, music


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("reconstruction") / "model"
    save_checkpoint(path, jukebox(), CARD)
    return path


def test_every_level_alone_and_as_long_as_the_audio(checkpoint, tmp_path):
    clip = music(1.0)[:, :-50]  # no multiple of the hop
    write_audio(tmp_path / "clip.wav", clip, RATE)
    written = reconstruct(checkpoint, tmp_path / "clip.wav", tmp_path / "out")
    assert list(written) == ["level_2", "level_1", "level_0"]
    padded = torch.nn.functional.pad(read_mono(tmp_path / "clip.wav", RATE), (0, 50))
    assert padded.shape[1] % HOP == 0
    expected = jukebox_vqvae(checkpoint).reconstruct(padded)
    for level in range(3):
        assert written[f"level_{level}"] == tmp_path / "out" / f"clip.level_{level}.wav"
        found, rate = read_audio(written[f"level_{level}"])
        assert (rate, found.shape) == (RATE, clip.shape)
        assert torch.allclose(found, expected[level][:, : clip.shape[1]].clamp(-1, 1), atol=1e-4)


def test_missing_audio_is_named(checkpoint, tmp_path):
    with pytest.raises(DataError, match=r"absent\.wav"):
        reconstruct(checkpoint, tmp_path / "absent.wav", tmp_path)
