import math

import pytest
import torch

from sonido_bench.errors import DataError
from tests.foundation.codec.tiny_codec import DIM, HOP, RATE, tiny_codec, tones


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 10 * HOP, 411])
def test_any_length_becomes_whole_frames_and_comes_back(samples):
    codec, audio = tiny_codec(), torch.randn(2, samples)
    frames = math.ceil(samples / HOP)
    codes = codec.encode(audio)
    assert codes.shape == (2, frames, 3)
    assert codes.dtype == torch.int64
    assert codec.latents(audio).shape == (2, DIM, frames)
    assert codec.embed(codes).shape == (2, frames, 3 * DIM)
    assert codec.decode(codes).shape == (2, frames * HOP)
    assert codec.decode(codes, samples).shape == codec(audio).audio.shape == (2, samples)


def test_padding_is_zeros_at_the_end():
    codec, audio = tiny_codec(), tones(1)[:, :411]
    padded = torch.cat([audio, torch.zeros(1, 440 - 411)], dim=1)
    assert torch.equal(codec.encode(audio), codec.encode(padded))


def test_decoding_the_codes_is_what_forward_reconstructs():
    codec, audio = tiny_codec(), tones()
    output = codec(audio)
    assert torch.equal(output.quantized.codes, codec.encode(audio))
    torch.testing.assert_close(codec.decode(output.quantized.codes), output.audio)
    torch.testing.assert_close(output.latents, codec.latents(audio))


def test_a_batch_is_its_items_one_by_one():
    codec, audio = tiny_codec(), tones(3)
    assert torch.equal(codec.encode(audio), torch.cat([codec.encode(item.unsqueeze(0)) for item in audio]))


def test_encoding_learns_nothing_in_training_mode():
    codec = tiny_codec().train()
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    codec.encode(tones())
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())
    codec(tones())
    assert not torch.equal(codec.quantizer.codes, before["quantizer.layers.0.codes"])


def test_its_figures_are_those_of_its_configuration():
    codec = tiny_codec()
    assert (codec.sample_rate, codec.hop_length, codec.frame_rate) == (RATE, HOP, RATE / HOP)
    assert (codec.codebooks, codec.codebook_size) == (3, 16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_audio_that_is_not_finite_is_refused(value):
    audio = tones()
    audio[1, 7] = value
    for use in (tiny_codec().encode, tiny_codec(), tiny_codec().initialise):
        with pytest.raises(DataError, match="expected finite samples"):
            use(audio)


def test_wrong_shapes_are_refused():
    codec = tiny_codec()
    for shape in ((100,), (1, 0), (0, 100), (1, 1, 100)):
        with pytest.raises(ValueError, match=r"expected audio \(batch, samples\), not empty"):
            codec.encode(torch.zeros(shape))
    for codes, samples in ((torch.zeros(1, 0, 3), None), (torch.zeros(1, 2, 3), 2 * HOP + 1), (torch.zeros(3), None)):
        with pytest.raises(ValueError, match=r"expected codes \(batch, frames, 3\) of at least"):
            codec.decode(codes.long(), samples)
    with pytest.raises(ValueError, match="below 16"):
        codec.decode(torch.full((1, 2, 3), 16))
