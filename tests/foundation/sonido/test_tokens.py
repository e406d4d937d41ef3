import numpy as np
import torch

from sonido_bench.audio import resample
from sonido_bench.foundation.sonido.tokens import encode_track
from tests.foundation.sonido.tiny_model import HOP, RATE, music, tiny_model


def test_encoding_gives_the_models_tokens_in_few_bits():
    model = tiny_model().stage_one
    audio = music(1.0)[0][:-100]
    tokens = encode_track(model, audio)
    expected = model.encode(torch.cat([audio, torch.zeros(100)])[None])
    assert tokens["top"].shape == (-(-len(audio) // HOP), 2)
    for level, values in expected.items():
        assert tokens[level].dtype == np.uint8
        np.testing.assert_array_equal(tokens[level], values[0].numpy())


class Summary(torch.nn.Module):
    """In the place of CLAP: length, mean and power of the audio that it is given, which tell what it was."""

    sample_rate = 3 * RATE // 2
    dim = 3

    def forward(self, audio):
        return torch.stack(
            [torch.full(audio.shape[:1], audio.shape[1] / 1e5), audio.mean(1), audio.square().mean(1)], 1
        )


def test_encoding_embeds_the_whole_audio_at_the_rate_that_clap_wants():
    model = tiny_model().stage_one
    audio = music(1.0)[0][:-100]
    encoded = encode_track(model, audio, Summary())
    expected = Summary()(resample(audio, RATE, Summary.sample_rate)[None])[0]
    assert encoded["condition"].dtype == np.float16
    np.testing.assert_array_equal(encoded.pop("condition"), expected.numpy().astype(np.float16))
    without = encode_track(model, audio)
    assert without.keys() == encoded.keys()
    assert all(np.array_equal(without[level], encoded[level]) for level in without)
