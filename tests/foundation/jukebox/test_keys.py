import math
from dataclasses import replace

import pytest
import torch

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.jukebox.keys import (
    differences,
    first_blocks,
    from_theirs,
    hugging_face_prefix,
    prior_weights,
    stored_shapes,
    to_theirs,
    vqvae_weights,
)
from sonido_bench.foundation.jukebox.presets import PRIORS, prior_preset
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.vqvae import PUBLISHED, VQVAEConfig
from tests.foundation.jukebox.tiny_vqvae import CONFIG, started

LAYOUTS = ["official", "hugging_face"]


def numbers(weights):
    return sum(math.prod(weight.their_shape) for weight in weights if not weight.copy)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_published_files_have_the_published_tensors(layout):
    counts = {"5b": 872, "5b_lyrics": 1194, "1b_lyrics": 872, "upsampler_1": 1006, "upsampler_0": 1006}
    parameters = {"5b": 5_060_452_800, "5b_lyrics": 5_640_506_800, "1b_lyrics": 942_643_200} | dict.fromkeys(
        ("upsampler_1", "upsampler_0"), 981_298_176
    )
    for name, count in counts.items():
        weights = prior_weights(prior_preset(name), layout)
        assert len(stored_shapes(weights)) == count == len(weights)
        assert numbers(weights) == parameters[name]
    assert len(stored_shapes(vqvae_weights(PUBLISHED, layout))) == 669
    assert numbers(vqvae_weights(PUBLISHED, layout)) == 1_878_979


# as the original's modules name and shape them
OFFICIAL = {
    "5b": {
        "prior.x_emb.weight": (2048, 4800),
        "prior.pos_emb.pos_emb": (8192, 4800),
        "prior.x_out.weight": (2048, 4800),
        "prior.transformer._attn_mods.71.attn.c_attn.w": (4800, 3600),
        "prior.transformer._attn_mods.71.attn.c_attn.b": (3600,),
        "prior.transformer._attn_mods.0.attn.c_proj.w": (1200, 4800),
        "prior.transformer._attn_mods.0.mlp.c_fc.w": (4800, 4800),
        "prior.transformer._attn_mods.0.mlp.c_proj.b": (4800,),
        "prior.transformer._attn_mods.0.ln_0.weight": (4800,),
        "prior.transformer._attn_mods.0.ln_1.bias": (4800,),
        "y_emb.bow_genre_emb.emb.weight": (120, 4800),
        "y_emb.artist_emb.emb.weight": (4111, 4800),
        "y_emb.total_length_emb.emb.weight": (128, 4800),
        "y_emb.absolute_pos_emb.emb.weight": (128, 4800),
        "y_emb.relative_pos_emb.emb.weight": (128, 4800),
    },
    "5b_lyrics": {
        "prior.transformer._attn_mods.18.attn.c_attn.w": (4800, 1200),
        "prior.transformer._attn_mods.78.attn.c_enc_kv.w": (4800, 2400),
        "prior.transformer._attn_mods.78.attn.c_enc_kv.b": (2400,),
        "prime_prior.start_token": (1, 1280),
        "prime_prior.x_emb.weight": (80, 1280),
        "prime_prior.pos_emb.pos_emb": (512, 1280),
        "prime_prior.transformer._attn_mods.17.mlp.c_fc.w": (1280, 1280),
        "prime_state_proj.w": (1280, 4800),
        "prime_state_proj.b": (4800,),
        "prime_state_ln.weight": (4800,),
        "prime_x_out.weight": (80, 4800),
    },
    "1b_lyrics": {
        "prior.x_emb.weight": (2127, 2048),
        "prior.x_out.weight": (2127, 2048),
        "prior.pos_emb.pos_emb": (6528, 2048),
        "prior.transformer._attn_mods.0.attn.c_attn.w": (2048, 1536),
        "prior.transformer._attn_mods.0.attn.c_proj.w": (512, 2048),
        "y_emb.artist_emb.emb.weight": (7898, 2048),
    },
    "upsampler_0": {
        "prior.transformer._attn_mods.0.attn.c_attn.w": (1920, 1440),
        "prior.transformer._attn_mods.0.attn.c_proj.w": (480, 1920),
        "conditioner_blocks.0.x_emb.weight": (2048, 1920),
        "conditioner_blocks.0.cond.model.0.weight": (1024, 1920, 3),
        "conditioner_blocks.0.cond.model.1.0.blocks.15.model.1.weight": (1024, 1024, 3),
        "conditioner_blocks.0.cond.model.2.0.blocks.0.model.3.weight": (1024, 1024, 1),
        "conditioner_blocks.0.cond.model.1.1.weight": (1024, 1024, 4),
        "conditioner_blocks.0.cond.model.2.1.weight": (1024, 1920, 4),
        "conditioner_blocks.0.ln.weight": (1920,),
    },
    "vqvae": {
        "encoders.0.level_blocks.0.model.0.0.weight": (64, 1, 4),
        "encoders.2.level_blocks.0.model.2.1.model.3.model.1.weight": (32, 32, 3),
        "encoders.2.level_blocks.0.model.2.1.model.3.model.3.weight": (32, 32, 1),
        "encoders.2.level_blocks.0.model.3.weight": (64, 32, 3),
        "encoders.2.level_blocks.2.model.0.0.weight": (32, 64, 4),
        "encoders.2.level_blocks.2.model.2.weight": (64, 32, 3),
        "decoders.1.level_blocks.1.model.0.weight": (32, 64, 3),
        "decoders.1.level_blocks.1.model.1.0.model.0.model.1.weight": (32, 32, 3),
        "decoders.1.level_blocks.1.model.2.0.model.3.model.3.bias": (32,),
        "decoders.1.level_blocks.1.model.2.1.weight": (32, 64, 4),
        "decoders.0.level_blocks.0.model.3.1.weight": (64, 64, 4),
        "decoders.0.out.weight": (1, 64, 3),
        "bottleneck.level_blocks.2.k": (2048, 64),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_names_and_shapes_are_those_of_the_original(name):
    weights = vqvae_weights(PUBLISHED, "official") if name == "vqvae" else prior_weights(PRIORS[name], "official")
    found = stored_shapes(weights)
    assert OFFICIAL[name].items() <= found.items()
    untimed = {key for key in found if "pos_emb.emb" in key or "length_emb" in key}
    assert bool(untimed) == (name not in ("upsampler_0", "vqvae"))
    assert ("prior.start_token" in found) is False


def hugging_face_priors(jukebox):
    """The published priors in Hugging Face's words."""
    top = {"metadata_conditioning": True, "mask": True, "sampling_rate": 44_100}
    bag = {"metadata_dims": [120, 4111], "max_nb_genres": 5}
    wide = {**top, **bag, "n_ctx": 8192, "blocks": 128, "nb_relevant_lyric_tokens": 0, "is_encoder_decoder": False}
    upsampler = wide | {
        "level": 1, "hidden_size": 1920, "num_layers": 72, "n_heads": 1, "merged_decoder": False,
        "attention_pattern": "raw_column_previous_row_attention", "res_conv_width": 1024, "res_conv_depth": 16,
        "res_dilation_growth_rate": 3, "res_dilation_cycle": 8,
    }  # fmt: skip
    encoder = {
        "mask": True, "attention_pattern": "raw_column_previous_row_attention", "blocks": 32, "hidden_size": 1280,
        "num_layers": 18, "n_heads": 4, "nb_relevant_lyric_tokens": 512, "lyric_vocab_size": 80,
    }  # fmt: skip
    arguments = {
        "1b_lyrics": {**top, "merged_decoder": False, "lyric_vocab_size": 79},
        "5b_lyrics": wide | {
            "hidden_size": 4800, "num_layers": 79, "n_heads": 8, "timing_dims": 128, "encoder_config": encoder,
            "attention_pattern": "large_separated_enc_dec_w_lyrics", "nb_relevant_lyric_tokens": 512,
        },
        "upsampler_0": upsampler,  # as upsampler_1
    }  # fmt: skip
    return {name: jukebox.JukeboxPriorConfig(**values) for name, values in arguments.items()}


def test_hugging_face_names_and_shapes_are_those_of_transformers():
    jukebox = pytest.importorskip("transformers.models.deprecated.jukebox")
    with torch.device("meta"):
        models = {name: jukebox.JukeboxPrior(config) for name, config in hugging_face_priors(jukebox).items()}
        vqvae = jukebox.JukeboxVQVAE(jukebox.JukeboxVQVAEConfig(res_dilation_growth_rate=3))
    found = {name: tuple(tensor.shape) for name, tensor in vqvae.state_dict().items()}
    assert not differences(vqvae_weights(PUBLISHED, "hugging_face"), found)
    counts = {"vqvae": len(found)}
    for name, model in models.items():
        found = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        assert found == stored_shapes(prior_weights(prior_preset(name), "hugging_face"))
        counts[name] = len(found)
    upsampler_1 = prior_weights(prior_preset("upsampler_1"), "hugging_face")
    assert upsampler_1 == prior_weights(prior_preset("upsampler_0"), "hugging_face")
    assert counts["vqvae"] + counts["1b_lyrics"] + 2 * counts["upsampler_0"] == 3553


def test_levels_come_the_other_way_round():
    prefixes = {name: hugging_face_prefix(PRIORS[name]) for name in ("1b_lyrics", "upsampler_1", "upsampler_0")}
    assert prefixes == {"1b_lyrics": "priors.0.", "upsampler_1": "priors.1.", "upsampler_0": "priors.2."}
    with pytest.raises(ConfigError, match="none of 256"):
        hugging_face_prefix(PRIORS["small"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["tiny", "tiny_lyrics", "tiny_upsampler_1"])
def test_there_and_back_is_the_same_bit_for_bit(name, layout):
    torch.manual_seed(0)
    model, weights = Prior(PRIORS[name]), prior_weights(PRIORS[name], layout)
    theirs = to_theirs(weights, model.state_dict())
    assert {key: tuple(tensor.shape) for key, tensor in theirs.items()} == stored_shapes(weights)
    assert not differences(weights, stored_shapes(weights))
    back = from_theirs(weights, theirs.__getitem__)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_of_the_autoencoders(layout):
    model, weights = started(), vqvae_weights(CONFIG, layout)
    back = from_theirs(weights, to_theirs(weights, model.state_dict()).__getitem__)
    kept = dict(model.named_parameters()) | {f"codebooks.{i}.codes": model.codebooks[i].codes for i in range(3)}
    assert back.keys() == kept.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in kept.items())


def test_what_differs_is_told():
    weights = prior_weights(PRIORS["tiny_lyrics"], "official")
    found = stored_shapes(weights)
    assert not differences(weights, found)
    copy = found.pop("prior.x_out.weight")
    assert not differences(weights, found)  # tied weights need not be stored twice
    found["prior.x_out.weight"] = (*copy, 1)
    del found["prior.pos_emb.pos_emb"]
    found["best.model.1"] = (3,)
    lines = differences(weights, found)
    assert len(lines) == 3
    assert lines[0] == f"1 of {len(weights)} tensors missing: prior.pos_emb.pos_emb"
    assert "prior.x_out.weight (143, 32, 1) instead of (143, 32)" in lines[1]
    assert "1 tensors not of this model: best.model.1" in lines[2]


def test_the_first_blocks_are_all_but_the_deeper_ones():
    config = PRIORS["tiny_lyrics"]
    some = first_blocks(prior_weights(config, "official"), 2)
    assert [*some] == [*prior_weights(replace(config, depth=2), "official")]


def test_variants_have_no_names_in_their_files():
    for variant in (VQVAEConfig(hierarchical=True), VQVAEConfig(codebook_size=None)):
        with pytest.raises(ConfigError, match="is a variant"):
            vqvae_weights(variant, "official")
    with pytest.raises(DataError, match="tensors are missing"):
        to_theirs(vqvae_weights(CONFIG, "official"), {})
