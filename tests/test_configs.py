"""Every shipped configuration is parsed and run for two steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from sonido_bench.benchmark.config import Budget, ClassConfig, load_benchmark
from sonido_bench.benchmark.results import load_results
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.cli import main
from sonido_bench.foundation.checkpoint import save_checkpoint, shipped_folder
from sonido_bench.launch.local import run_benchmark
from tests.foundation.jukebox.tiny_jukebox import CARD, jukebox

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = {"seconds": 1.5, "train_tracks": 8, "validation_tracks": 4, "test_tracks": 4}
LOADING = {"data.batches_per_epoch": 1, "data.num_workers": 0}
PUBLISHED = {
    "umx-published": {**LOADING, "data.segment_seconds": 0.5, "data.batch_size": 2, "model.width": 16},
    "htdemucs-published": {
        **LOADING,
        "data.segment_seconds": 1.0,
        "model.segment_seconds": 1.0,
        "model.hidden": 8,
        "model.bottom_channels": 32,
        "model.t_layers": 1,
    },
    "mix-wave-unet-published": {
        **LOADING,
        "data.segment_seconds": 0.5,
        "data.batch_size": 2,
        "model.layers": 3,
        "model.growth": 4,
    },
    "crafx2-published": {
        **LOADING,
        "data.segment_seconds": 1.6,
        "data.batch_size": 2,
        "data.normalised": "false",
        "model.encoder_width": 8,
        "model.repeats": 1,
    },
}
"""Recipes of papers, for which the data must be fetched, and what makes them small enough for a test."""


def ids(path: Path) -> str:
    return path.stem


def test_every_configuration_is_short():
    for path in CONFIGS.rglob("*.yaml"):
        limit = 80 if path.parent.name == "benchmarks" else 40  # a benchmark has up to six networks
        assert len(path.read_text().splitlines()) <= limit, f"{path} is no longer read at a glance"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def musdb(tmp_path_factory):
    """Two tracks to train on, one for validation, one for the test, of two and a half seconds."""
    root, rng = tmp_path_factory.mktemp("musdb"), np.random.default_rng(0)
    for name in ("train/One", "train/Two", "train/Actions - One Minute Smile", "test/Three"):
        stems = {stem: 0.1 * rng.standard_normal((110250, 2)) for stem in ("vocals", "drums", "bass", "other")}
        (root / name).mkdir(parents=True)
        for stem, audio in {**stems, "mixture": sum(stems.values())}.items():
            soundfile.write(root / name / f"{stem}.wav", audio, 44100)
    return root


@pytest.mark.parametrize("path", sorted((CONFIGS / "tasks").glob("*.yaml")), ids=ids)
def test_task_configurations_train_and_test(path, data, musdb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cut = {"segment_seconds": 1.0} if "segment_seconds" in path.read_text() else {}
    sizes = {**SMALL, **cut, "batches_per_epoch": 1, "batch_size": 2}
    own = {f"data.{name}": value for name, value in sizes.items()}
    changed = {**PUBLISHED.get(path.stem, own), "data.root": musdb if path.stem in PUBLISHED else data}
    options = [f"--{name.replace('.', '.init_args.')}={value}" for name, value in changed.items()]
    limits = ["--trainer.max_steps=2", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    command = [
        "--config",
        str(path),
        *options,
        *limits,
        "--model.init_args.extractor=sonido_bench.foundation.chroma.Chroma",
    ]
    assert main(["fit", *command]) == 0
    checkpoint = next(Path("results/fit").rglob("best.ckpt"))
    assert main(["test", *command, f"--ckpt_path={checkpoint}", "--weights_only=true"]) == 0
    assert yaml.safe_load(next(Path("results/fit").rglob("config.yaml")).read_text())["trainer"]["max_steps"] == 2


def test_a_misspelt_option_is_refused_by_fit(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(CONFIGS / "tasks" / "key.yaml"), "--model.init_args.widht=3"])
    assert end.value.code == 2
    assert "widht" in capsys.readouterr().err


def small(config: ClassConfig) -> ClassConfig:
    """A data set of a few short tracks, whole in training."""
    whole = {"segment_seconds": None} if "segment_seconds" in config.init_args else {}
    return ClassConfig(config.class_path, {**config.init_args, **SMALL, **whole})


@pytest.mark.parametrize("path", sorted((CONFIGS / "benchmarks").glob("*.yaml")), ids=ids)
def test_benchmarks_run(path, data, tmp_path, monkeypatch):
    config = load_benchmark(str(path))
    monkeypatch.chdir(tmp_path)  # where arms find models that were pre-trained: others in the place of each
    for extractor in config.extractors.values():
        model = Path(extractor.init_args.get("checkpoint", ""))
        if model.parts[:1] == ("results",) and not model.exists():
            model.parent.mkdir(parents=True, exist_ok=True)
            if "Jukebox" in extractor.class_path:
                save_checkpoint(model, jukebox(), CARD)
            else:
                model.symlink_to(shipped_folder("sonido-tiny"))
    Path("checkpoints").symlink_to(shipped_folder("sonido-tiny").parent)
    shrunk = replace(
        config,
        data=small(config.data),
        tasks={
            name: replace(
                task, budget=Budget(4, 2, 1, 1), data=task.data and small(task.data), fractions=None, seeds=None
            )
            for name, task in config.tasks.items()
        },
        fractions=config.fractions[-1:],
        seeds=config.seeds[:1],
    )
    workspace = Workspace(tmp_path / "results", tmp_path / "cache", data)
    run_benchmark(shrunk, workspace, workers=1)
    assert len(load_results(workspace.results)) == len(config.tasks) * len(config.arms)
