"""Pre-training, whole: run, stop, kill, resume, refuse. One run of seconds serves all tests of this file."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.sonido.checkpoint import load_card, load_checkpoint
from sonido_bench.foundation.sonido.stage_one import StageOne
from sonido_bench.launch.phase import DivergedError, load_weights, read_summary
from sonido_bench.launch.pretraining import pretrain
from sonido_bench.launch.pretraining_config import load_pretraining

CONFIG = Path(__file__).with_name("pretraining.yaml")
PHASES = ("stage_one", "stage_two/top", "stage_two/mid", "waveform_decoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the music, and in ``whole`` a run without interruption."""
    path = tmp_path_factory.mktemp("pretraining")
    assert run(path, "whole")
    return path


def run(folder, name, config=CONFIG, **options):
    return pretrain(config, folder / name, **({"workers": 1, "data": folder / "data"} | options))


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


def assert_same(one: Path, other: Path):
    for phase in PHASES:
        weights, others = load_weights(one / phase), load_weights(other / phase)
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights), phase
        curves = [[{n: v for n, v in row.items() if "cost" not in n} for row in rows(p / phase)] for p in (one, other)]
        assert curves[0] == curves[1]


def rows(folder: Path):
    with (folder / "curves.csv").open() as file:
        return list(csv.DictReader(file))


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
    pieces = 0
    while not run(folder, "pieces", minutes=0.0):  # a step, or a shard, at a time
        pieces += 1
        assert pieces < 30
    assert pieces > 10
    assert "the same command resumes" in capsys.readouterr().err
    assert_same(folder / "pieces", folder / "whole")


def test_kill_9_between_checkpoints_loses_only_what_came_after_the_last(folder):
    child = multiprocessing.get_context("fork").Process(target=run_and_die, args=(folder, "killed", 4))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [row["step"] for row in rows(folder / "killed" / "stage_one")] == ["3"]
    assert read_summary(folder / "killed" / "stage_one") is None
    assert run(folder, "killed")
    assert_same(folder / "killed", folder / "whole")


def run_and_die(folder, name, step):
    train = StageOne.training_step

    def die(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(self, batch, batch_idx)

    StageOne.training_step = die
    run(folder, name)


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
        run(folder, "whole", other)


def test_stage_two_can_be_trained_anew_on_the_same_tokens(folder, tmp_path):
    shutil.copytree(folder / "whole", folder / "anew")
    other = changed(tmp_path / "other.yaml", ("stage_two.top.learning_rate", 0.002))
    with pytest.raises(ConfigError, match="delete this one to train it anew"):
        run(folder, "anew", other)
    shutil.rmtree(folder / "anew" / "stage_two" / "top")
    before = {path: path.stat().st_mtime_ns for path in (folder / "anew" / "tokens").rglob("*")}
    assert run(folder, "anew", other)
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
