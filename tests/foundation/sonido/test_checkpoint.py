import pickle
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_file
from sonido_bench.foundation.card import render_card
from sonido_bench.foundation.checkpoint import checkpoint_folder, load_card, round_to_stored, save_checkpoint
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint, write_gate
from tests.foundation.signed_folder import FILES, sign
from tests.foundation.sonido.tiny_model import CARD, music, tiny_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "whole"
    save_checkpoint(path, tiny_model(), CARD)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def change_tensors(folder, change):
    tensors = load_file(folder / FILES[0])
    change(tensors)
    save_file(tensors, folder / FILES[0])
    sign(folder)


def change_config(folder, change):
    values = yaml.safe_load((folder / "config.yaml").read_text())
    change(values)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    sign(folder)


def test_round_trip(whole):
    model, loaded = tiny_model(), load_checkpoint(whole)
    assert loaded.config == model.config
    assert not loaded.training
    for (name, found), expected in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert found.dtype == expected.dtype
        assert torch.allclose(found.float(), expected.float(), rtol=1e-3, atol=1e-6), name
    assert {path.name for path in whole.iterdir()} == {*FILES, "SHA256SUMS"}
    assert load_file(whole / FILES[0])["priors.top.transformer.blocks.0.mlp_in.weight"].dtype == torch.float16


def test_rounded_weights_give_the_same_tokens_after_storage(tmp_path):
    model, audio = tiny_model(), music(8.0, batch=4, seed=1)
    before = model.encode(audio)
    round_to_stored(model.stage_one)
    rounded = model.encode(audio)
    assert all((before[level] != rounded[level]).float().mean() < 0.02 for level in before)
    save_checkpoint(tmp_path / "model", model, CARD)
    stored = load_checkpoint(tmp_path / "model").encode(audio)
    assert all(torch.equal(rounded[level], stored[level]) for level in stored)


def test_weights_beyond_half_precision_are_stored_whole(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.prior("top").head.weight[0, 0] = 1e6
    save_checkpoint(tmp_path / "model", model, CARD)
    assert load_checkpoint(tmp_path / "model").prior("top").head.weight[0, 0] == 1e6


def test_loading_leaves_the_random_state_alone(whole):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_checkpoint(whole)
    assert torch.equal(torch.rand(1), expected)


def test_card_is_stored_as_data_and_as_text(whole):
    assert load_card(whole) == CARD
    text = (whole / "README.md").read_text()
    assert text == render_card(CARD)
    assert "| probe | tokens | log-mel |\n| --- | --- | --- |\n| key | 0.5 | 0.25 |" in text
    assert "- prior top: 1,000" in text
    assert "Gate" not in render_card(replace(CARD, gate=()))


def test_sums_can_be_checked_by_other_programs(whole):
    lines = (whole / "SHA256SUMS").read_text().splitlines()
    assert lines == [f"{sha256_file(whole / name)}  {name}" for name in FILES]


def test_interrupted_saving_leaves_nothing_that_loads(folder, monkeypatch):
    model = tiny_model()
    with torch.no_grad():
        model.prior("top").head.bias += 1

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sonido_bench.foundation.checkpoint.render_card", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, model, CARD)
    with pytest.raises(DataError, match="found no SHA256SUMS"):
        load_checkpoint(folder)


def test_a_diverged_model_is_not_saved(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.prior("top").head.bias[0] = torch.nan
    with pytest.raises(DataError, match=r"priors\.top\.head\.bias holds NaN"):
        save_checkpoint(tmp_path / "model", model, CARD)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "pytorch_model.bin", "model.safetensors"])
def test_pickles_are_refused_and_never_run(folder, tmp_path, name):
    proof = tmp_path / "was run"
    (folder / FILES[0]).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(proof)))
    if name == FILES[0]:
        sign(folder)
    with pytest.raises(DataError, match="safetensors"):
        load_checkpoint(folder)
    if name != FILES[0]:
        with pytest.raises(DataError, match="can run code"):
            load_checkpoint(folder / name)
    assert not proof.exists()


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"found no {name}"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: expected SHA-256"):
        load_checkpoint(folder)


@pytest.mark.parametrize("size", [0, 7, 1000, -1])
def test_truncated_weights_are_refused_even_with_sums_that_fit(folder, size):
    content = (folder / FILES[0]).read_bytes()
    (folder / FILES[0]).write_bytes(content[:size])
    with pytest.raises(DataError, match="expected SHA-256"):
        load_checkpoint(folder)
    sign(folder)
    with pytest.raises(DataError, match="expected safetensors, found a truncated"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "sums",
    [
        "",
        "abc",
        "\xff\xfe",
        f"{'0' * 64}  ../../../etc/passwd\n",
        "".join(f"{'0' * 64}  {name}\n" for name in (*FILES, "/etc/passwd")),
    ],
)
def test_sums_of_other_files_are_refused(folder, sums):
    (folder / "SHA256SUMS").write_bytes(sums.encode("latin-1"))
    with pytest.raises(DataError, match="SHA256SUMS: expected"):
        load_checkpoint(folder)


def test_tensors_that_do_not_fit_are_named(folder, whole):
    name = "priors.top.head.bias"
    for change, message in {
        lambda tensors: tensors.pop(name): f"lacks 1 tensors .*{name}",
        lambda tensors: tensors.update(other=torch.zeros(1)): "has unexpected 1 tensors .*other",
        lambda tensors: tensors.update({name: torch.zeros(3)}): f"{name}: expected shape",
        lambda tensors: tensors[name].fill_(torch.nan): f"{name} holds NaN",
        lambda tensors: tensors[name].fill_(torch.inf): f"{name} holds NaN or infinity",
    }.items():
        shutil.copy(whole / FILES[0], folder)
        change_tensors(folder, change)
        with pytest.raises(DataError, match=message):
            load_checkpoint(folder)


def test_a_config_that_asks_for_the_moon_is_refused_at_once(folder, whole):
    def wide(values):
        values["model"]["priors"][0].update(width=2**24, attention_width=2**24, mlp_width=2**24)

    def deep(values):
        values["model"]["priors"][0].update(depth=10**9)

    for change, message in {wide: "expected shape", deep: "10000000.. blocks do not fit"}.items():
        shutil.copy(whole / "config.yaml", folder)
        change_config(folder, change)
        with pytest.raises(DataError, match=message):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "expected readable YAML"),
        ("1", "expected a section 'model'"),
        ("model: {}", "config.yaml"),
        ("model: {name: x, surprise: 1}", "config.yaml"),
        ("model: !!python/object/apply:os.system ['true']", "expected readable YAML"),
        ("#" * 2_000_000, "at most 1,000,000 bytes"),
    ],
)
def test_other_configurations_are_refused(folder, text, message):
    (folder / "config.yaml").write_text(text)
    sign(folder)
    with pytest.raises(DataError, match=message):
        load_checkpoint(folder)


def test_malformed_cards_are_refused(folder):
    for change in (
        lambda values: values["card"].pop("data"),
        lambda values: values["card"].update(surprise=1),
        lambda values: values["card"].update(seeds=3),
        lambda values: values["card"].update(licence=3),
    ):
        shutil.copy(folder / "config.yaml", folder / "kept")
        change_config(folder, change)
        with pytest.raises(DataError, match="card"):
            load_card(folder)
        shutil.move(folder / "kept", folder / "config.yaml")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="expected the files"):
        load_checkpoint(tmp_path / "file")


def test_figures_of_the_gate_join_the_card_and_leave_the_weights(folder):
    weights = sha256_file(folder / FILES[0])
    write_gate(folder, ({"criterion": "key", "verdict": "PASS"},), ({"level": "top", "mse": 0.5},))
    assert load_card(folder).gate == ({"criterion": "key", "verdict": "PASS"},)
    assert load_card(folder).levels == ({"level": "top", "mse": 0.5},)
    assert "| key | PASS |" in folder.joinpath("README.md").read_text()
    assert sha256_file(folder / FILES[0]) == weights
    load_checkpoint(folder)


def test_checkpoints_are_found_by_path_or_refused(folder):
    assert checkpoint_folder(str(folder)) == folder
    with pytest.raises(ConfigError, match="no checkpoint 'nosuch'"):
        checkpoint_folder("nosuch")
