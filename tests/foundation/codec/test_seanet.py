import pytest
import torch

from sonido_bench.foundation.codec.config import PUBLISHED, TINY, SEANetConfig
from sonido_bench.foundation.codec.model import Codec
from sonido_bench.foundation.codec.seanet import Decoder, Encoder


def hugging_face(config, codebook_size=16, sample_rate=16_000):
    """EnCodec of transformers, the independent implementation, with random weights."""
    from transformers import EncodecConfig, EncodecModel

    return EncodecModel(
        EncodecConfig(
            sampling_rate=sample_rate,
            target_bandwidths=[2.2],
            hidden_size=config.dimension,
            num_filters=config.filters,
            upsampling_ratios=list(config.ratios),
            num_lstm_layers=config.lstm_layers,
            num_residual_layers=config.residual_layers,
            use_causal_conv=False,
            use_conv_shortcut=False,
            pad_mode="constant",
            codebook_size=codebook_size,
        )
    ).eval()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("config", [
    SEANetConfig(ratios=(3, 5, 2), dimension=6, filters=4),  # odd strides are trimmed unevenly
    SEANetConfig(ratios=(4, 2), dimension=5, filters=2, lstm_layers=1, residual_layers=2),
])  # fmt: skip
def test_it_is_the_seanet_of_transformers_weight_by_weight(config):
    torch.manual_seed(0)
    other, encoder, decoder = hugging_face(config), Encoder(config), Decoder(config)
    encoder.load_state_dict(other.encoder.state_dict())
    decoder.load_state_dict(other.decoder.state_dict())
    audio, latents = torch.randn(2, 7 * config.hop_length), torch.randn(2, config.dimension, 7)
    with torch.no_grad():
        torch.testing.assert_close(encoder(audio), other.encoder(audio.unsqueeze(1)), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(decoder(latents), other.decoder(latents).squeeze(1), atol=1e-6, rtol=1e-5)


def test_the_published_codec_has_as_many_parameters_as_that_of_transformers_part_by_part():
    with torch.device("meta"):
        codec = Codec(PUBLISHED)
        other = hugging_face(PUBLISHED.seanet, codebook_size=2048, sample_rate=32_000)
    assert count(codec.encoder) == count(other.encoder)
    assert count(codec.decoder) == count(other.decoder)
    assert count(codec) == 56_884_674
    # codes, and the counts and sums that they are learned from, are what makes 59 million of it
    assert sum(tensor.numel() for tensor in codec.state_dict().values()) == 58_990_022
    assert sum(tensor.numel() for tensor in other.state_dict().values()) == 58_990_022


def test_a_frame_is_one_hop_and_the_decoder_gives_it_back():
    config = SEANetConfig(ratios=(3, 2), dimension=4, filters=2)
    latents = Encoder(config)(torch.randn(1, 30))
    assert latents.shape == (1, 4, 5)
    assert Decoder(config)(latents).shape == (1, 30)


@pytest.mark.parametrize("shape", [(1, 31), (1, 0), (30,), (1, 1, 30)])
def test_audio_that_is_not_whole_frames_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected audio \(batch, samples\) with samples a multiple of 6"):
        Encoder(SEANetConfig(ratios=(3, 2), dimension=4, filters=2))(torch.randn(shape))


def test_an_untrained_codec_listens_to_its_audio_at_its_loudness():
    """With torch's default weights the second figure is 0.001, and training starts on a plateau."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(TINY.seanet), Decoder(TINY.seanet)
    audio = 0.1 * torch.randn(4, 16_000)
    with torch.no_grad():
        latents = encoder(audio)
        made, others = decoder(latents), decoder(latents.roll(1, 0))
    assert 0.1 < latents.std() < 10
    assert (made - others).std() > 0.3 * made.std()
    assert 0.02 < made.std() < 0.5
