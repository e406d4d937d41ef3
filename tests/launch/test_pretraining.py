"""Pre-training, whole: run, stop, kill, resume, refuse. One run of seconds serves all tests of this file."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from sonido_bench.audio import resample
from sonido_bench.datamodules.augmentation import Augmentation
from sonido_bench.datamodules.recordings import open_audio, read_track
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_json
from sonido_bench.foundation.checkpoint import load_card
from sonido_bench.foundation.clap import ClapEmbedding
from sonido_bench.foundation.configuration import plain
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint
from sonido_bench.foundation.sonido.stage_one import StageOne
from sonido_bench.launch.phase import DivergedError, load_weights, read_summary
from sonido_bench.launch.pretraining_config import load_pretraining
from sonido_bench.launch.sonido_pretraining import SonidoTokenizer
from sonido_bench.launch.token_extraction import tokens_key
from tests.launch import pretraining_runs
from tests.launch.pretraining_runs import assert_same, kill, pieces, rows

CONFIG = Path(__file__).with_name("pretraining.yaml")
PHASES = ("stage_one", "stage_two/top", "stage_two/mid", "waveform_decoder")

run = partial(pretraining_runs.run, config=CONFIG)


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    """A folder with a random CLAP model of dim 16."""
    pytest.importorskip("transformers")
    from tests.foundation.test_clap import save_tiny_clap

    return save_tiny_clap(tmp_path_factory.mktemp("clap"), fusion=False)


@pytest.fixture(scope="module")
def conditioned(folder, clap):
    """In ``conditioned``, a run whose top transformer hears such embeddings; its configuration."""
    top, mid = yaml.safe_load(CONFIG.read_text())["model"]["priors"]
    priors = [top | {"condition_dim": 16, "condition_dropout": 0.5}, mid]
    config = changed(folder / "conditioned.yaml", ("model.priors", priors), ("tokens.clap", str(clap)))
    shutil.copytree(folder / "whole" / "stage_one", folder / "conditioned" / "stage_one")
    shutil.copytree(folder / "whole" / "waveform_decoder", folder / "conditioned" / "waveform_decoder")
    assert run(folder, "conditioned", config=config)
    return config


def changed(path, *changes):
    """Write the configuration with other values: ``("stage_one.steps", 8)``."""
    values = yaml.safe_load(CONFIG.read_text())
    for name, value in changes:
        section = values
        *parents, last = name.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = value
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_run_leaves_curves_a_figure_and_a_model_with_its_card(folder):
    whole = folder / "whole"
    assert (whole / "history.png").stat().st_size > 5000
    assert [row["step"] for row in rows(whole / "stage_one")] == ["3", "6"]
    assert {"train/loss", "val/loss", "val/top/perplexity", "train/temperature"} <= rows(whole / "stage_one")[0].keys()
    model, card = load_checkpoint(whole / "model"), load_card(whole / "model")
    stored = load_weights(whole / "stage_one")
    torch.testing.assert_close(
        model.stage_one.codes("top"), stored["stages.top.quantizer.layers.0.codes"], atol=1e-2, rtol=0
    )
    assert card.steps == {"stage_one": 6, "stage_two/top": 4, "stage_two/mid": 4, "waveform_decoder": 2}
    assert card.seeds == {"training": 1, "music": 3}
    assert len(card.curves) == 2 + 2 + 1 + 1
    summary = read_summary(whole / "stage_one")
    assert summary["audio_seconds"] == pytest.approx(6 * 4 * 0.5, rel=0.05)
    assert summary["times_real_time"] > 0
    assert summary["cpu_seconds"] > 0


def test_a_finished_run_is_left_alone(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "whole").rglob("last.ckpt")}
    assert run(folder, "whole")
    assert {path: path.stat().st_mtime_ns for path in (folder / "whole").rglob("last.ckpt")} == before


def test_pieces_give_what_a_run_at_a_stretch_gives(folder, capsys):
    assert pieces(partial(run, folder, "pieces")) > 10
    assert "the same command resumes" in capsys.readouterr().err
    assert_same(folder / "pieces", folder / "whole", PHASES)


def test_kill_9_between_checkpoints_loses_only_what_came_after_the_last(folder):
    kill(partial(run, folder, "killed"), StageOne, 4)
    assert [row["step"] for row in rows(folder / "killed" / "stage_one")] == ["3"]
    assert read_summary(folder / "killed" / "stage_one") is None
    assert run(folder, "killed")
    assert_same(folder / "killed", folder / "whole", PHASES)


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(folder, monkeypatch):
    train = StageOne.training_step

    def spoil(self, batch, batch_idx):
        return train(self, batch * (float("nan") if self.global_step == 4 else 1.0), batch_idx)

    monkeypatch.setattr(StageOne, "training_step", spoil)
    with pytest.raises(DivergedError, match=r"stage_one: .*step 4; the last good checkpoint is .*stage_one/last\.ckpt"):
        run(folder, "diverged")
    assert all(torch.isfinite(value).all() for value in load_weights(folder / "diverged" / "stage_one").values())


def test_weights_that_are_not_finite_never_replace_good_ones(folder, monkeypatch):
    step = StageOne.optimizer_step

    def spoil(self, *arguments):
        step(self, *arguments)
        if self.global_step == 5:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.inf)

    monkeypatch.setattr(StageOne, "optimizer_step", spoil)
    with pytest.raises(DivergedError, match=r"weight model.* is not finite at step 6"):
        run(folder, "spoilt")
    assert all(torch.isfinite(value).all() for value in load_weights(folder / "spoilt" / "stage_one").values())


def test_a_folder_keeps_to_its_configuration(folder, tmp_path):
    other = changed(tmp_path / "other.yaml", ("stage_one.learning_rate", 0.5))
    with pytest.raises(ConfigError, match=r"trained with training\.learning_rate 0\.001, the configuration says 0\.5"):
        run(folder, "whole", config=other)


def test_stage_two_can_be_trained_anew_on_the_same_tokens(folder, tmp_path):
    shutil.copytree(folder / "whole", folder / "anew")
    other = changed(tmp_path / "other.yaml", ("stage_two.top.learning_rate", 0.002))
    with pytest.raises(ConfigError, match="delete this one to train it anew"):
        run(folder, "anew", config=other)
    shutil.rmtree(folder / "anew" / "stage_two" / "top")
    before = {path: path.stat().st_mtime_ns for path in (folder / "anew" / "tokens").rglob("*")}
    assert run(folder, "anew", config=other)
    assert {path: path.stat().st_mtime_ns for path in (folder / "anew" / "tokens").rglob("*")} == before
    weights = [load_weights(folder / name / "stage_two/top")["head.weight"] for name in ("anew", "whole")]
    assert not torch.equal(*weights)


def test_a_damaged_checkpoint_is_one_clear_line(folder):
    shutil.copytree(folder / "whole", folder / "damaged")
    (folder / "damaged" / "stage_one" / "last.ckpt").write_bytes(b"PK broken")
    with pytest.raises(DataError, match="expected a checkpoint") as error:
        run(folder, "damaged")
    assert "\n" not in str(error.value)


def test_settings_are_all_that_decides_a_phase(folder):
    settings = json.loads((folder / "whole" / "stage_one" / "settings.json").read_text())
    assert {"seed", "audio", "augmentation", "model", "training", "processes"} == settings.keys()
    assert str(folder) not in json.dumps(settings)


def test_without_clap_the_tokens_key_and_settings_are_what_they_always_were(folder):
    config, whole = load_pretraining(CONFIG).at(folder / "data"), folder / "whole"
    digest = hashlib.sha256()
    for name, tensor in sorted(load_weights(whole / "stage_one").items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    source = open_audio(config.data)
    literal = {
        "weights": digest.hexdigest(), "audio": source.identity, "augmentation": plain(config.augmentation),
        "copies": 2, "tracks_per_shard": 4, "seed": 1,
    }  # fmt: skip
    key = tokens_key(config, source, SonidoTokenizer(config.model.stage_one, whole / "stage_one"))
    assert key == sha256_json(literal)
    assert [path.name for path in (whole / "tokens").iterdir()] == [key[:12]]
    assert json.loads((whole / "stage_two" / "top" / "settings.json").read_text()) == {
        "seed": 1, "processes": 1, "augmentation": plain(config.augmentation), "tokens": key[:12],
        "model": plain(config.model.prior("top")), "training": plain(config.stage_two["top"]),
    }  # fmt: skip
    assert all(name.rpartition("/")[2] in ("top", "mid") for name in stored(whole))


def stored(path: Path):
    return {
        name: value for shard in (path / "tokens").rglob("*.safetensors") for name, value in load_file(shard).items()
    }


def test_every_version_of_a_recording_has_the_embedding_of_its_audio(folder, clap, conditioned):
    tensors, plain_tensors = stored(folder / "conditioned"), stored(folder / "whole")
    conditions = {name: value for name, value in tensors.items() if name.endswith("/condition")}
    assert tensors.keys() - conditions.keys() == plain_tensors.keys()
    assert all(np.array_equal(tensors[name], plain_tensors[name]) for name in plain_tensors)
    assert {name.removesuffix("/condition") for name in conditions} == {name.rpartition("/")[0] for name in tensors}
    assert {(value.dtype, value.shape) for value in conditions.values()} == {(np.dtype(np.float16), (16,))}
    source, embedding = open_audio(load_pretraining(conditioned).at(folder / "data").data), ClapEmbedding(clap)
    for name in source.training:
        audio = resample(read_track(source.clip(name), 11025, Augmentation()), 11025, embedding.sample_rate)
        np.testing.assert_allclose(conditions[f"{name}/0/condition"], embedding(audio[None])[0].numpy(), atol=1e-3)
        assert not np.array_equal(conditions[f"{name}/0/condition"], conditions[f"{name}/1/condition"])


def test_a_transformer_with_condition_learns_it_and_resumes_exactly(folder, conditioned):
    weights = load_weights(folder / "conditioned" / "stage_two/top")
    assert weights["condition_start.weight"].std() > 0.019
    assert "condition_start.weight" not in load_weights(folder / "conditioned" / "stage_two/mid")
    shutil.copytree(folder / "conditioned", folder / "conditioned_pieces")
    shutil.rmtree(folder / "conditioned_pieces" / "stage_two" / "top")
    assert 3 <= pieces(partial(run, folder, "conditioned_pieces", config=conditioned)) < 10
    assert_same(folder / "conditioned_pieces", folder / "conditioned", PHASES)


def test_another_clap_model_gives_other_tokens_and_a_copy_of_it_the_same(folder, clap, conditioned, tmp_path):
    other = shutil.copytree(clap, tmp_path / "other")
    model = ClapEmbedding(clap).model
    with torch.no_grad():
        model.audio_projection.linear1.weight.add_(0.1)
    model.save_pretrained(other)
    config = load_pretraining(conditioned).at(folder / "data")
    source, weights = open_audio(config.data), folder / "conditioned" / "stage_one"
    paths = (clap, shutil.copytree(clap, tmp_path / "copy"), other)
    tokenizers = [SonidoTokenizer(config.model.stage_one, weights, str(path)) for path in paths]
    keys = [tokens_key(config, source, tokenizer) for tokenizer in tokenizers]
    assert keys[0] == keys[1] != keys[2]
    assert tokens_key(config, source, SonidoTokenizer(config.model.stage_one, weights)) not in keys


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition_dim": 12}, r"prior mid: expected condition_dim 16, as .* gives, found 12"),
        ({"clap": "nothing/here/at/all"}, r"nothing/here/at/all: expected a CLAP model"),
    ],
)
def test_a_clap_model_that_does_not_fit_is_refused_before_stage_one(folder, conditioned, tmp_path, changes, message):
    values = yaml.safe_load(conditioned.read_text())
    values["model"]["priors"][1]["condition_dim"] = changes.get("condition_dim", 16)
    values["tokens"]["clap"] = changes.get("clap", values["tokens"]["clap"])
    config = tmp_path / "wrong.yaml"
    config.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message) as error:
        run(tmp_path, "refused", config=config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "refused" / "stage_one").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stage_one.stesp", 8, "stesp"),
        ("stage_one.steps", "many", "steps"),
        ("stage_one.batch_size", 3, "crops must divide batch_size"),
        ("stage_two", {"top": {"steps": 250, "batch_size": 2}}, r"a section for each of \['top', 'mid'\]"),
        ("waveform_decoder", None, "expected in both model and training"),
        ("augmentation", {"gain_db": [3, 1]}, "gain_db must be a range"),
        ("data", {}, "either `rendered` or `folder`"),
        ("tokens.copies", 0, "expected at least 1"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(tmp_path, name, value, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_pretraining(changed(tmp_path / "wrong.yaml", (name, value)))
    assert "\n" not in str(error.value)
    assert "wrong.yaml" in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="expected a readable YAML file"):
        load_pretraining(tmp_path / "none.yaml")
