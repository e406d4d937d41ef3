import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.checkpoint import load_card, save_checkpoint
from sonido_bench.foundation.family import model_family
from sonido_bench.foundation.jukebox import checkpoint
from sonido_bench.foundation.jukebox.folder import (
    is_published,
    jukebox_parts,
    jukebox_vqvae,
    load_checkpoint,
    published_files,
)
from sonido_bench.foundation.jukebox.generation import JukeboxGeneration, generate
from sonido_bench.foundation.jukebox.keys import to_theirs, vqvae_weights
from sonido_bench.foundation.jukebox.model import JukeboxConfig, JukeboxFeatureConfig, parse_config
from sonido_bench.foundation.jukebox.presets import PRIORS
from tests.foundation.jukebox.tiny_files import hugging_face, official
from tests.foundation.jukebox.tiny_files import prior as preset_prior
from tests.foundation.jukebox.tiny_jukebox import BOTTOM, CARD, MIDDLE, SUNG, TOP, VQVAE_CONFIG, WHOLE, jukebox, music
from tests.foundation.jukebox.tiny_vqvae import CONFIG, started
from tests.foundation.signed_folder import FILES, sign


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "whole"
    save_checkpoint(path, jukebox(), CARD)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.allclose(tensor.float(), expected[name].float(), rtol=1e-3, atol=1e-6), name


def test_round_trip(whole):
    model, loaded = jukebox(), load_checkpoint(whole)
    assert (loaded.config, loaded.training, load_card(whole)) == (model.config, False, CARD)
    close(loaded.state_dict(), model.state_dict())
    assert parse_config(json.loads(json.dumps(WHOLE.as_dict()))) == WHOLE


def test_parts_are_those_of_the_whole_model(whole):
    parts, loaded = jukebox_parts(whole), load_checkpoint(whole)
    for one, expected in ((parts.vqvae(), loaded.vqvae), (jukebox_vqvae(whole), loaded.vqvae)):
        assert not one.training
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in one.state_dict().items())
        assert torch.equal(one.encode(music(0.5))[2], expected.encode(music(0.5))[2])
    for source, expected in zip(parts.priors, loaded.priors, strict=True):
        found = source.load()
        assert (source.config, found.training) == (found.config, False)
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_parts_of_another_precision(whole):
    single, half = jukebox_parts(whole), jukebox_parts(whole, dtype=torch.bfloat16)
    found = half.priors[0].load()
    assert found.music.transformer.blocks[0].mlp_in.weight.dtype == torch.bfloat16
    assert found.music.embedding.weight.dtype == torch.float32
    assert {tensor.dtype for tensor in half.vqvae().parameters()} == {torch.float32}
    assert single.identity != half.identity


def test_a_folder_of_ones_own_samples(whole, tmp_path):
    parts = jukebox_parts(whole)
    generate(parts, tmp_path / "a", JukeboxGeneration(seconds=0.3))
    generate(jukebox_parts(whole), tmp_path / "b", JukeboxGeneration(seconds=0.3))
    found = [load_file(tmp_path / name / "tokens.safetensors") for name in "ab"]
    assert all(torch.equal(found[0][level], found[1][level]) for level in ("level_0", "level_1", "level_2"))


@pytest.mark.parametrize("option", [{"preset": "5b"}, {"cache": Path("cache")}])
def test_options_of_published_weights_are_not_for_ones_own(whole, option):
    with pytest.raises(ConfigError, match="no published Jukebox, preset and cache are for these"):
        jukebox_parts(whole, **option)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"priors": (MIDDLE, TOP)}, "a prior for each of 3 levels, got 2"),
        ({"priors": (MIDDLE, BOTTOM, TOP)}, r"level 0 of the VQ-VAE .* \(8000, 8, 16\), prior middle has \(8000, 32"),
        ({"priors": (BOTTOM, replace(MIDDLE, codebook_size=8), TOP)}, "make them agree"),
        ({"priors": (BOTTOM, replace(MIDDLE, upsampler=None), TOP)}, "cannot be conditioned|conditioned on no other"),
        ({"priors": (BOTTOM, replace(MIDDLE, name="bottom"), TOP)}, "name of its own"),
        ({"vqvae": replace(VQVAE_CONFIG, hierarchical=True)}, "not hierarchical"),
        ({"vqvae": replace(VQVAE_CONFIG, codebook_size=None)}, "quantises"),
        ({"features": JukeboxFeatureConfig((7,), 1.0)}, "layers from 0 to 6, got"),
        ({"features": JukeboxFeatureConfig((), 1.0)}, "layers from 0 to 6, got"),
        ({"features": JukeboxFeatureConfig((1,), 600.0)}, "prior top knows songs of 0.2 s to less than 600 s"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(WHOLE, **change)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("depth", 10**9, "do not fit"),
        ("width", 10**6, "expected shape|describes no model"),
        ("surprise", 1, "surprise"),
        ("hop_length", 64, "make them agree"),
    ],
)
def test_a_hostile_configuration_builds_nothing(folder, name, value, message):
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["model"]["priors"][2][name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    sign(folder)
    for load in (load_checkpoint, jukebox_parts, jukebox_vqvae):
        with pytest.raises(DataError, match=message):
            load(folder)


def test_a_damaged_part_is_refused_when_it_is_read(folder):
    tensors = load_file(folder / FILES[0])
    tensors["priors.1.music.embedding.weight"][0, 0] = torch.inf
    save_file(tensors, folder / FILES[0])
    with pytest.raises(DataError, match="expected SHA-256"):
        jukebox_parts(folder)
    sign(folder)
    parts = jukebox_parts(folder)
    parts.priors[0].load()
    with pytest.raises(DataError, match=r"priors\.1\..* holds NaN or infinity"):
        parts.priors[1].load()
    with pytest.raises(DataError, match="holds NaN or infinity"):
        load_checkpoint(folder)


@pytest.fixture
def tiny_published(monkeypatch):
    """Let small weights pass for the published ones."""
    for name, stand_in in {"upsampler_0": "tiny_upsampler_0", "upsampler_1": "tiny_upsampler_1"}.items():
        monkeypatch.setitem(PRIORS, name, replace(PRIORS[stand_in], name=name))
    monkeypatch.setitem(PRIORS, "1b_lyrics", replace(PRIORS["tiny_lyrics"], name="1b_lyrics"))
    monkeypatch.setitem(PRIORS, "5b", replace(PRIORS["tiny"], name="5b"))
    monkeypatch.setattr(checkpoint, "load_vqvae", partial(checkpoint.load_vqvae, config=CONFIG))


def openais(root, *presets, **changes):
    """Lay official files out as OpenAI does; changes are of the VQ-VAE."""
    for name in ("5b", *presets):
        (root / name).mkdir(parents=True)
    vqvae = started(**changes)
    theirs = to_theirs(vqvae_weights(vqvae.config, "official"), vqvae.state_dict())
    torch.save({"model": theirs}, root / "5b" / "vqvae.pth.tar")
    official(root / "5b" / "prior_level_0.pth.tar", "tiny_upsampler_0")
    official(root / "5b" / "prior_level_1.pth.tar", "tiny_upsampler_1")
    official(root / "5b" / "prior_level_2.pth.tar", "tiny")
    for name in presets:
        official(root / name / "prior_level_2.pth.tar", "tiny_lyrics")
    return root


def test_openais_folders(tmp_path, tiny_published):
    root = openais(tmp_path / "models", "1b_lyrics")
    assert [is_published(folder) for folder in (root, root / "5b", root / "1b_lyrics", tmp_path)] == [True] * 3 + [
        False
    ]
    assert model_family(root / "1b_lyrics") == "jukebox"
    files = published_files(root / "1b_lyrics")
    assert (files.preset, files.top) == ("1b_lyrics", root / "1b_lyrics" / "prior_level_2.pth.tar")
    assert {files.vqvae.parent, files.upsampler_0.parent, files.upsampler_1.parent} == {(root / "5b").resolve()}
    assert published_files(root, "1b_lyrics") == files
    assert published_files(root / "5b").preset == "5b"
    parts = jukebox_parts(root / "1b_lyrics")
    assert [source.config.name for source in parts.priors] == ["upsampler_0", "upsampler_1", "1b_lyrics"]
    expected = preset_prior("tiny_lyrics").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parts.priors[2].load().state_dict().items())


def test_what_the_names_do_not_tell_is_asked_for(tmp_path, tiny_published):
    root = openais(tmp_path / "models", "1b_lyrics")
    with pytest.raises(ConfigError, match="has 5b, 1b_lyrics: say which as preset"):
        published_files(root)
    with pytest.raises(ConfigError, match="and no 5b_lyrics"):
        published_files(root, "5b_lyrics")
    with pytest.raises(ConfigError, match="by its name the folder of 1b_lyrics, not of 5b"):
        published_files(root / "1b_lyrics", "5b")
    with pytest.raises(ConfigError, match="'upsampler_0' is no top prior; use one of: 5b, 5b_lyrics, 1b_lyrics"):
        published_files(root, "upsampler_0")
    plain = (root / "5b").rename(tmp_path / "plain")
    with pytest.raises(ConfigError, match="its name does not tell which model it is"):
        published_files(plain)
    assert published_files(plain, "5b").vqvae == plain / "vqvae.pth.tar"
    with pytest.raises(DataError, match=r"prior_level_1\.pth\.tar: expected it in .* or in a folder 5b beside it"):
        published_files(root / "1b_lyrics")


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin.index.json"])
def test_hugging_faces_folder(tmp_path, tiny_published, form):
    folder = hugging_face(tmp_path / "theirs", ["tiny_upsampler_0", "tiny_upsampler_1", "tiny_lyrics"], form)
    assert not is_published(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "jukebox"}))
    assert model_family(folder) == "jukebox"
    assert published_files(folder).preset in ("1b_lyrics", "tiny_lyrics")  # which here are the same
    parts = jukebox_parts(folder, "1b_lyrics")
    expected = preset_prior("tiny_lyrics").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parts.priors[2].load().state_dict().items())
    assert jukebox_vqvae(folder).config == parts.vqvae().config


def test_a_folder_of_another_top_prior_is_refused(tmp_path):
    folder = hugging_face(tmp_path / "theirs", ["tiny_upsampler_0"])
    (folder / "config.json").write_text(json.dumps({"model_type": "jukebox"}))
    with pytest.raises(ConfigError, match="its top prior is none of 5b"):
        published_files(folder)


@pytest.mark.parametrize("text", ["", "[1]", '{"model_type": "bert"}', "{", "[" * 10**5])
def test_what_is_no_jukebox_is_not_taken_for_one(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert not is_published(tmp_path)
    with pytest.raises(DataError, match="expected the files"):
        model_family(tmp_path)


def test_lyrics_are_part_of_a_model(tmp_path):
    sung = replace(WHOLE, priors=(BOTTOM, MIDDLE, SUNG))
    assert parse_config(sung.as_dict()) == sung
    assert isinstance(sung, JukeboxConfig)
