import torch

from sonido_bench.foundation.sonido.config import FeatureConfig, LevelConfig, PriorConfig, SonidoConfig, StageOneConfig
from sonido_bench.foundation.sonido.model import Sonido
from tests.foundation.sonido.tiny_model import HOP, music, tiny_model


def test_windows_give_what_the_whole_gives():
    model = tiny_model()
    audio = music(40.0)
    assert len(model._windows(audio.shape[1])) > 2
    whole = model.stage_one.encode(audio)
    windowed = model.encode(audio)
    assert all(torch.equal(windowed[level], whole[level]) for level in whole)
    latents, expected = model.latents(audio, "mid"), model.stage_one.latents(audio, "mid")
    assert latents.keys() == {"top", "mid"}
    assert all(torch.allclose(latents[level], expected[level], atol=1e-4) for level in expected)
    decoded = model.decode(whole)
    assert torch.allclose(decoded, model._decode_window(whole), atol=1e-4 * decoded.abs().max())


def test_audio_is_padded_to_whole_frames_and_decoded_as_long():
    model = tiny_model()
    tokens = model.encode(torch.zeros(2, 3 * HOP + 1))
    assert {level: tuple(t.shape) for level, t in tokens.items()} == {
        "top": (2, 4, 2), "mid": (2, 8, 2), "bottom": (2, 16, 2),
    }  # fmt: skip
    for levels in (["top"], ["top", "mid"], ["top", "mid", "bottom"]):
        assert model.decode({level: tokens[level] for level in levels}).shape == (2, 4 * HOP)


def test_waveform_model_needs_no_decoder():
    sizes = {"width": 8, "depth": 1, "codebook_size": 16, "code_dim": 4}
    stage_one = StageOneConfig((LevelConfig("top", 16, **sizes), LevelConfig("mid", 4, **sizes)), sample_rate=8000)
    prior = PriorConfig("top", context=64, width=8, depth=2, heads=1, attention_width=8, mlp_width=8, block_length=16)
    model = Sonido(SonidoConfig("waveform", stage_one, (prior,), FeatureConfig((1,), ("top",)))).eval()
    audio = 0.1 * torch.randn(1, 1600, generator=torch.Generator().manual_seed(0))
    assert model.waveform_decoder is None
    assert model.decode(model.encode(audio)).shape == (1, 1600)
