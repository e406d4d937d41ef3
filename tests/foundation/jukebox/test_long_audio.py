import pytest
import torch

from sonido_bench.errors import DataError
from sonido_bench.foundation.jukebox.long_audio import decode_long, encode_long
from tests.foundation.jukebox.tiny_jukebox import CODES, HOP, music, vqvae


@pytest.fixture(scope="module", params=[1, 3])
def model(request):
    return vqvae(depth=request.param)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("samples", [1, 5 * HOP, 90 * HOP])
def test_tokens_are_those_of_the_whole(model, level, samples):
    audio = music(0.15 if samples < HOP else 1.5)
    assert torch.equal(encode_long(model, audio, level, samples), model.encode_level(audio, level))


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("samples", [7 * HOP, 20 * HOP])
def test_audio_is_that_of_the_whole(model, level, samples):
    tokens = torch.randint(CODES, (2, 60 * HOP // model.hop(level)), generator=torch.Generator().manual_seed(level))
    whole = model.decode(tokens, level)
    found = decode_long(model, tokens, level, samples)
    assert whole.std() > 1e-3
    assert torch.allclose(found, whole, atol=1e-5 * whole.abs().max().item())


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_margin_of_a_decoder_covers_what_its_samples_depend_on(model, level):
    hop, frames = model.hop(level), 200 * HOP // model.hop(level)
    codes = torch.randn(1, model.config.code_dim, frames, generator=torch.Generator().manual_seed(0))
    changed = codes.clone()
    changed[..., frames // 2] += 10
    audio, other = (model.decoders[level]([one]) for one in (codes, changed))
    moved = (audio != other).flatten().nonzero()
    margin = (-(-(model.reach(level) + hop) // hop) + 1) * hop
    assert frames // 2 * hop - moved.min() <= margin
    assert moved.max() - (frames // 2 + 1) * hop < margin
    assert moved.max() - moved.min() > hop


def test_one_window_at_a_time(model, monkeypatch):
    seen = []
    encode = model.encode_level
    monkeypatch.setattr(model, "encode_level", lambda audio, level: seen.append(audio.shape[1]) or encode(audio, level))
    encode_long(model, music(4.0), 2, 10 * HOP)
    margin = -(-model.reach(2) // HOP)
    assert len(seen) == -(-(250 - 2 * margin) // 10)  # the first and the last keep a margin, too
    assert set(seen) == {(10 + 2 * margin) * HOP}


def test_bad_audio_and_tokens_are_refused(model):
    with pytest.raises(ValueError, match="a multiple of 128"):
        encode_long(model, torch.zeros(1, 200), 2, 128)
    with pytest.raises(ValueError, match=r"expected audio \(batch, samples\)"):
        encode_long(model, torch.zeros(256), 2, 128)
    with pytest.raises(DataError, match="finite"):
        encode_long(model, torch.full((1, 512), torch.nan), 2, 128)
    with pytest.raises(ValueError, match="expected tokens of 0 to 15"):
        decode_long(model, torch.full((1, 9), 16), 2, 128)
    with pytest.raises(ValueError, match="expected int64 tokens"):
        decode_long(model, torch.zeros(1, 9), 2, 128)
