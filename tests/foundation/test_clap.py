import json
import sys

import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.clap import ClapEmbedding

transformers = pytest.importorskip("transformers")
RATE = 8000
DIM = 16


def save_tiny_clap(folder, fusion):
    from tokenizers.pre_tokenizers import ByteLevel

    torch.manual_seed(0)
    audio = {
        "spec_size": 32, "num_mel_bins": 16, "depths": [1, 1], "num_attention_heads": [1, 2], "num_hidden_layers": 2,
        "patch_embeds_hidden_size": 8, "hidden_size": 16, "projection_dim": DIM, "window_size": 4,
        "enable_fusion": fusion, "patch_embed_input_channels": 1, "fusion_type": "aff_2d" if fusion else None,
    }  # fmt: skip
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    text = {
        "vocab_size": len(letters), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 40, "projection_dim": DIM,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=DIM)
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE, hop_length=160, max_length_s=1, fft_window_size=256, frequency_max=4000,
        truncation="fusion" if fusion else "rand_trunc",
    ).save_pretrained(folder)  # fmt: skip
    # as files, since the constructor's arguments differ between transformers 4 and 5
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 30}))
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fusion"])
def clap(request, tmp_path_factory):
    return ClapEmbedding(save_tiny_clap(tmp_path_factory.mktemp("clap"), request.param))


@pytest.fixture(scope="module")
def audio():
    return 0.3 * torch.randn(2, 3 * RATE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("samples", [1, 3000, RATE, RATE + 1, 2 * RATE, 20_000])
def test_any_length_gives_unit_vectors(clap, audio, samples):
    embedding = clap(audio[:, :samples])
    assert embedding.shape == (2, clap.dim) == (2, DIM)
    assert embedding.dtype == torch.float32
    assert torch.allclose(embedding.norm(dim=1), torch.ones(2))


def test_embeddings_are_repeatable_and_of_each_item_alone(clap, audio):
    assert not torch.allclose(clap(audio)[0], clap(audio)[1], atol=1e-4)
    assert torch.equal(clap(audio), clap(audio))
    assert torch.allclose(clap(audio)[:1], clap(audio[:1]), atol=1e-6)


def test_long_audio_is_the_mean_of_its_windows(clap, audio):
    starts = (0, RATE, 20_000 - RATE)
    windows = torch.stack([clap(audio[:, start : start + RATE]) for start in starts])
    expected = torch.nn.functional.normalize(windows.mean(0), dim=-1)
    assert torch.allclose(clap(audio[:, :20_000]), expected, atol=1e-5)


def test_short_audio_is_repeated(clap, audio):
    part = audio[:, : RATE // 4]
    assert torch.allclose(clap(part), clap(part.repeat(1, 4)), atol=1e-6)


def test_equals_the_library_on_one_window(clap, audio):
    inputs = clap._extractor(audio[0, :RATE].numpy(), sampling_rate=RATE, return_tensors="pt")
    longer = torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        expected = clap.model.get_audio_features(input_features=inputs["input_features"], is_longer=longer)
    expected = getattr(expected, "pooler_output", expected)  # transformers 4 gives the tensor itself
    assert torch.allclose(clap(audio[:1, :RATE]), expected, atol=1e-6)


def test_text_does_not_depend_on_its_neighbours(clap):
    embedding = clap.text(["a slow piano piece", "drums"])
    assert embedding.shape == (2, DIM)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(2))
    assert torch.allclose(embedding[1:], clap.text(["drums"]), atol=1e-5)
    assert clap.text(["long " * 100]).shape == (1, DIM)


def test_it_is_frozen(clap):
    assert not any(module.training for module in clap.model.modules())
    assert not any(parameter.requires_grad for parameter in clap.parameters())


def test_wrong_shapes_are_refused(clap):
    with pytest.raises(ValueError, match="batch, samples"):
        clap(torch.zeros(2, 1, 100))
    with pytest.raises(ValueError, match="batch, samples"):
        clap(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="one prompt"):
        clap.text([])


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match="expected a CLAP model"):
        ClapEmbedding(tmp_path)


def test_the_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="pip install transformers"):
        ClapEmbedding("laion/larger_clap_music")
