import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from sonido_bench.errors import DataError
from sonido_bench.foundation.checkpoint import load_card, round_to_stored, save_checkpoint
from sonido_bench.foundation.codec.checkpoint import load_checkpoint
from sonido_bench.foundation.family import model_family
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint as load_sonido
from tests.foundation.codec.tiny_codec import CARD, tiny_music_codec, tones
from tests.foundation.signed_folder import FILES, sign


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "whole"
    save_checkpoint(path, tiny_music_codec(), CARD)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def change_config(folder, section, name, value):
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["model"][section][name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    sign(folder)


def test_round_trip(whole):
    model, loaded = tiny_music_codec(), load_checkpoint(whole)
    assert (loaded.config, loaded.training, load_card(whole)) == (model.config, False, CARD)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for (name, found), expected in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.allclose(found.float(), expected.float(), rtol=1e-3, atol=1e-6), name


def test_rounded_weights_give_the_same_codes_after_storage(tmp_path):
    model, audio = tiny_music_codec(), tones(4, 1.0, seed=1)
    round_to_stored(model.codec)
    save_checkpoint(tmp_path / "model", model, CARD)
    assert torch.equal(load_checkpoint(tmp_path / "model").encode(audio), model.encode(audio))


def test_families_are_told_apart(whole):
    assert model_family(whole) == "codec"
    with pytest.raises(DataError, match="does not accept option 'codec"):
        load_sonido(whole)


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("language_model", "depth", 10**9, "do not fit"),
        ("language_model", "width", 10**6, "expected shape|describes no model"),
        ("language_model", "codebooks", 4, "make them agree"),
        ("codec", "surprise", 1, "surprise"),
        ("codec", "frame_rate", 7.0, "correct one"),
    ],
)
def test_a_hostile_configuration_builds_nothing(folder, section, name, value, message):
    change_config(folder, section, name, value)
    with pytest.raises(DataError, match=message):
        load_checkpoint(folder)


def test_a_changed_or_damaged_file_is_refused(folder):
    tensors = load_file(folder / FILES[0])
    tensors["language_model.heads.weight"][0, 0] = torch.inf
    save_file(tensors, folder / FILES[0])
    for load in (load_checkpoint, model_family):
        with pytest.raises(DataError, match="expected SHA-256"):
            load(folder)
    sign(folder)
    with pytest.raises(DataError, match=r"heads\.weight holds NaN or infinity"):
        load_checkpoint(folder)
