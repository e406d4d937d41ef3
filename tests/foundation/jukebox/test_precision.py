import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox import checkpoint
from sonido_bench.foundation.jukebox.checkpoint import load_prior
from sonido_bench.foundation.jukebox.extractor import JukeboxFeatures
from sonido_bench.foundation.jukebox.generation import JukeboxGeneration, generate
from sonido_bench.foundation.jukebox.keys import hugging_face_prefix, prior_weights, to_theirs
from sonido_bench.foundation.jukebox.labels import SongLabels, label_vector
from sonido_bench.foundation.jukebox.parts import JukeboxParts, PriorSource, published_parts
from sonido_bench.foundation.jukebox.precision import in_precision, lowered, torch_dtype
from sonido_bench.foundation.jukebox.presets import PRIORS, prior_preset
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import LyricEncoderConfig, LyricsConfig
from sonido_bench.foundation.transformer.cache import KVCache
from sonido_bench.foundation.transformer.sampling import SamplingConfig
from sonido_bench.foundation.transformer.stepping import Stepper
from tests.foundation.jukebox.tiny_jukebox import BOTTOM, MIDDLE, RATE, SUNG, TOP, music, prior, vqvae

SEPARATE = replace(
    TOP, name="separate", depth=20, attention_order=10,
    lyrics=LyricsConfig(12, 79, LyricEncoderConfig(width=16, depth=2, heads=2, blocks=3)),
)  # fmt: skip
HALVES = [torch.bfloat16, torch.float16]
# What one rounding to 8 or 11 bits moves a number by, at most. A block rounds its inputs, products and sums a dozen
# times, at random; those of all blocks add up as their root: 16 blocks were 1.1 to 2.5 times one rounding away.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


def given(config, batch=2):
    """Codes, labels and codes above of a random window."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(config.codebook_size, (batch, config.context), generator=generator)
    above = torch.randint(config.codebook_size, (batch, config.context // 4), generator=generator)
    label = label_vector(config, SongLabels(500 * config.hop_length))
    return codes, label.expand(batch, -1), above if config.upsampler else None


def apart(found, expected):
    """Norm of the difference to that of the whole."""
    return ((found - expected).norm() / expected.norm()).item()


def bytes_of(model):
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@pytest.mark.parametrize("config", [TOP, SUNG, SEPARATE, MIDDLE], ids=lambda config: config.name)
@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_logits_and_activations_are_near(config, dtype):
    full, half = prior(config), in_precision(prior(config), dtype)
    expected, found = full(*given(config)), half(*given(config))
    assert found.music.dtype == torch.float32
    assert apart(found.music, expected.music) < 4 * ROUNDING[dtype]
    if expected.lyrics is not None:
        assert apart(found.lyrics, expected.lyrics) < 4 * ROUNDING[dtype]
    same = found.music.argmax(-1) == expected.music.argmax(-1)
    assert same.float().mean() > 0.95
    codes, labels, above = given(config)
    hidden = half.hidden(codes, [0, config.depth], labels, above)
    reference = full.hidden(codes, [0, config.depth], labels, above)
    assert hidden[config.depth].dtype == torch.float32
    assert apart(hidden[config.depth], reference[config.depth]) < 4 * ROUNDING[dtype]
    if config.upsampler is None and config.lyrics is None:
        assert torch.equal(hidden[0], reference[0])  # nothing in front of the blocks is rounded


@torch.no_grad()
def test_the_stream_is_not_rounded():
    """All in bfloat16, stream and norms among it, is further away."""
    config = replace(TOP, depth=36)
    full, mixed, whole = prior(config), in_precision(prior(config), torch.bfloat16), prior(config).to(torch.bfloat16)
    expected = full(*given(config)).music
    assert 1.5 * apart(mixed(*given(config)).music, expected) < apart(whole(*given(config)).music.float(), expected)


@pytest.mark.parametrize("config", [TOP, SUNG, SEPARATE, MIDDLE], ids=lambda config: config.name)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_steps_are_the_whole_in_half_precision(config, batch):
    """Each step of the likeliest continuation is the likeliest of the whole; two near ones may change places."""
    model = in_precision(prior(config), torch.bfloat16)
    codes, labels, above = given(config, batch)
    sampled = model.sample(codes[:, :9], config.context - 9, labels, above, SamplingConfig(temperature=0.0))
    logits = model(sampled, labels, above).music[..., config.shift :]
    taken = logits.gather(2, sampled.unsqueeze(2))[..., 0]
    behind = (logits.amax(2) - taken)[:, 9:]
    assert (behind == 0).float().mean() > 0.95
    assert behind.max() < 2 * ROUNDING[torch.bfloat16] * logits.abs().max()


@torch.no_grad()
def test_the_likeliest_codes_are_mostly_those_of_float32():
    """Position by position behind float32's codes: sequences drift apart for good after the first that differs."""
    full, half = prior(TOP), in_precision(prior(TOP), torch.bfloat16)
    codes, labels, _ = given(TOP, 8)
    sampled = full.sample(codes[:, :0], 48, labels, None, SamplingConfig(temperature=0.0))
    assert torch.equal(full(sampled, labels).music.argmax(-1), sampled)
    assert (half(sampled, labels).music.argmax(-1) == sampled).float().mean() > 0.95


@pytest.mark.parametrize("dtype", HALVES)
def test_features_are_near_and_in_float32(dtype):
    audio, name = music(1.0), str(dtype).removeprefix("torch.")
    full, half = (JukeboxFeatures(vqvae(), prior(), (4,), dtype=given) for given in ("float32", name))
    expected, found = full.extract(audio)["layer_4"], half.extract(audio)["layer_4"]
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 1 - ROUNDING[dtype] / 100
    assert full.fingerprint() != half.fingerprint()


@pytest.mark.parametrize("name", ["5b", "5b_lyrics", "1b_lyrics", "upsampler_1", "upsampler_0"])
def test_memory_of_published_priors_is_halved(name):
    with torch.device("meta"):
        model = Prior(prior_preset(name))
    before = bytes_of(model)
    in_precision(model, torch.bfloat16)
    assert bytes_of(model) / before < 0.52


@pytest.mark.parametrize("name", PRIORS)
def test_layers_of_blocks_and_convolutions_are_lowered_and_nothing_else(name):
    with torch.device("meta"):
        model = Prior(prior_preset(name))
    wanted = set()
    for path, module in model.named_modules():
        block = isinstance(module, nn.Linear) and ".blocks." in path
        if block or isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            wanted |= {f"{path}.{key}" for key, _ in module.named_parameters()}
    found = {
        key for key, _ in model.named_parameters() if lowered(key, torch.zeros(1), torch.float16).dtype.itemsize == 2
    }
    assert found == wanted


@pytest.mark.parametrize("config", [TOP, SUNG, SEPARATE], ids=lambda config: config.name)
@torch.no_grad()
def test_keys_and_values_take_half(config):
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = in_precision(prior(config), dtype)
        hidden, context = torch.randn(2, 9, 16), torch.randn(2, 12, 16)
        cache = KVCache(config.depth)
        model.music.transformer(hidden, cache=cache, context=context if config is SEPARATE else None)
        assert all(kept.dtype == dtype for layer in cache.layers for kept in layer.kept)
        steps = Stepper(model.music.transformer, cache, config.positions)._steps
        sizes[dtype] = sum(step._buffer.untyped_storage().nbytes() for _, step in steps)
    assert 2 * sizes[torch.bfloat16] == sizes[torch.float32] > 0


def test_a_prior_is_changed_in_place_one_weight_after_another():
    model, before = prior(SUNG), {name: tensor.clone() for name, tensor in prior(SUNG).state_dict().items()}
    parameters = dict(model.named_parameters())
    assert in_precision(model, torch.bfloat16) is model
    assert all(found is parameters[name] for name, found in model.named_parameters())
    assert all(torch.equal(found, lowered(name, before[name], torch.bfloat16)) for name, found in parameters.items())
    again = in_precision(copy.deepcopy(model), torch.float32)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


def test_each_weight_is_lowered_as_it_is_read(tmp_path, monkeypatch):
    """Never is a second weight held in the precision of the file."""
    config, events = PRIORS["tiny"], []
    state = to_theirs(prior_weights(config, "hugging_face"), Prior(config).state_dict())
    file = tmp_path / "model.safetensors"
    save_file({hugging_face_prefix(config) + key: value for key, value in state.items()}, file)
    take, lower = checkpoint.WeightFiles.take, checkpoint.lowered
    monkeypatch.setattr(checkpoint.WeightFiles, "take", lambda self, name: events.append("read") or take(self, name))
    monkeypatch.setattr(checkpoint, "lowered", lambda *arguments: events.append("lowered") or lower(*arguments))
    model = load_prior("tiny", file, dtype=torch.bfloat16)
    assert events == ["read", "lowered"] * len(state)
    assert bytes_of(model) < 0.7 * bytes_of(Prior(config))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.complex64])
def test_other_precisions_are_refused(tmp_path, dtype):
    for use in (
        lambda: in_precision(prior(), dtype),
        lambda: load_prior("tiny", tmp_path, dtype=dtype),
        lambda: published_parts("1b_lyrics", tmp_path, dtype=dtype),
    ):
        with pytest.raises(ConfigError, match=f"expected dtype float32, bfloat16 or float16, got {dtype}"):
            use()


@pytest.mark.parametrize("name", ["int8", "half", "", "float64"])
def test_unknown_names_are_refused(name):
    assert torch_dtype("bfloat16") == torch.bfloat16
    with pytest.raises(ConfigError, match=f"unknown dtype '{name}'; use one of: float32, bfloat16, float16"):
        torch_dtype(name)


@torch.no_grad()
def test_what_float16_cannot_hold_is_refused():
    model = prior()
    model.music.transformer.blocks[1].mlp_in.weight[0, 0] = 1e5
    in_precision(copy.deepcopy(model), torch.bfloat16)
    with pytest.raises(ValueError, match=r"blocks.1.mlp_in.weight is beyond the range of float16; ask for bfloat16"):
        in_precision(model, torch.float16)


def test_a_generation_keeps_to_its_precision(tmp_path):
    """The same files in another precision are another model."""
    for name in ("model.safetensors", "prior"):
        (tmp_path / name).write_bytes(b"x")
    identities = {
        dtype: published_parts("1b_lyrics", tmp_path / "prior", dtype=dtype).identity
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    assert len(set(identities.values())) == 3

    def parts(dtype):
        sources = (
            PriorSource(config, lambda config=config: in_precision(prior(config), dtype))
            for config in (BOTTOM, MIDDLE, TOP)
        )
        return JukeboxParts(identities[dtype], vqvae, tuple(sources))

    config = JukeboxGeneration(seconds=10 * 128 / RATE, finest=1)
    generate(parts(torch.bfloat16), tmp_path / "out", config)
    before = (tmp_path / "out" / "tokens.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="other settings"):
        generate(parts(torch.float32), tmp_path / "out", config)
    assert (tmp_path / "out" / "tokens.safetensors").read_bytes() == before


def test_generation_lays_weights_out(tmp_path):
    """What is loaded for a level is nobody else's, and one item goes on faster so."""
    models = {config.name: prior(config) for config in (BOTTOM, MIDDLE, TOP)}
    sources = tuple(PriorSource(config, lambda config=config: models[config.name]) for config in (BOTTOM, MIDDLE, TOP))
    generate(JukeboxParts("x", vqvae, sources), tmp_path, JukeboxGeneration(seconds=0.1, finest=2))
    blocks = models["top"].music.transformer.blocks
    assert all(block.mlp_in.weight.T.is_contiguous() for block in blocks)
