from dataclasses import replace

import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec import long_audio
from sonido_bench.foundation.codec.long_audio import decode_long, encode_long, latents_of_long
from sonido_bench.foundation.codec.music_codec import LayerConfig, MusicCodec, parse_config
from tests.foundation.codec.tiny_codec import HOP, RATE, tiny_codec, tiny_config, tiny_music_codec, tones


def test_configuration_survives_plain_values():
    config = tiny_config(delays=(0, 2, 5))
    assert parse_config(config.as_dict()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebooks": 4}, "has 3 codebooks of 16 codes, the language model models 4 of 16"),
        ({"codebook_size": 17}, "models 3 of 17"),
        ({"context": 3}, "context must be above 3 frames, got 3"),
        ({"delays": (0, 20, 39)}, "context must be above 40 frames, got 40"),
        ({"depth": 1}, r"different layers from 0 to 1, got \[2\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


@pytest.mark.parametrize("layers", [(), (1, 1), (4,), (-1,)])
def test_default_layers_must_be_there(layers):
    with pytest.raises(ConfigError, match="different layers from 0 to 3"):
        replace(tiny_config(), features=LayerConfig(layers))


def test_short_audio_is_what_the_codec_makes_of_the_whole():
    model, audio = tiny_music_codec(), tones(2, 0.5)[:, :-7]
    assert torch.equal(model.encode(audio), model.codec.encode(audio))
    assert torch.allclose(model.latents(audio), model.codec.latents(audio).transpose(1, 2), atol=1e-6)
    codes = model.encode(audio)
    assert torch.allclose(model.decode(codes), model.codec.decode(codes), atol=1e-6)
    assert (model.sample_rate, model.hop_length) == (RATE, HOP)


def test_some_codebooks_alone_are_the_sum_of_their_codes():
    codec, codes = tiny_codec(), tiny_codec().encode(tones(1, 0.3))
    parts = torch.unflatten(codec.embed(codes), 2, (3, -1))
    expected = codec.decoder((parts[:, :, 0] + parts[:, :, 1]).transpose(1, 2))
    assert torch.allclose(decode_long(codec, codes, 2), expected, atol=1e-6)
    for count in (0, 4):
        with pytest.raises(ValueError, match="1 to 3 codebooks"):
            decode_long(codec, codes, count)


def test_long_audio_is_run_in_windows_that_hardly_show(monkeypatch):
    codec, audio = tiny_codec(), tones(1, 8.0)
    whole_codes, whole_latents = codec.encode(audio), latents_of_long(codec, audio)
    seen, run = [], codec.encoder.forward
    monkeypatch.setattr(codec.encoder, "forward", lambda part: seen.append(part.shape[1]) or run(part))
    monkeypatch.setattr(long_audio, "_WINDOW_SECONDS", 3.0)
    codes, latents = encode_long(codec, audio), latents_of_long(codec, audio)
    assert max(seen) == 3 * RATE
    assert codes.shape == whole_codes.shape
    assert (codes == whole_codes).float().mean() > 0.99
    assert (latents - whole_latents).abs().max() < 1e-2 * whole_latents.abs().max()
    decoded = decode_long(codec, whole_codes)
    expected = codec.decode(whole_codes)
    assert decoded.shape == expected.shape
    assert (decoded - expected).abs().max() < 1e-2 * expected.abs().max()


def test_gradients_are_for_training_alone():
    model = MusicCodec(tiny_config())
    assert not model.eval().encode(tones(1, 0.1)).requires_grad
    assert not model.latents(tones(1, 0.1)).requires_grad
