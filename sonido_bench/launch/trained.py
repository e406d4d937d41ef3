"""Trained task models from where `fit` and benchmark runs leave them.

results/fit/NAME/version_0/config.yaml, checkpoints/best.ckpt      sonido-bench fit
results/BENCHMARK/runs/RUN.json, checkpoints/RUN/best.ckpt         sonido-bench run
"""

import pickle
from pathlib import Path
from typing import Any

import torch
import yaml

from sonido_bench.benchmark.config import ArmConfig, Budget, ClassConfig, TaskConfig
from sonido_bench.benchmark.instantiate import arm_extractor, build, build_task, import_class
from sonido_bench.benchmark.results import load_result
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.tasks.base import FeatureTask

__all__ = ["load_trained"]

_CONFIG, _BEST = "config.yaml", "best.ckpt"


def load_trained(run: Path) -> FeatureTask:
    """Load a trained task model.

    Args:
        run: A folder of ``sonido-bench fit`` (with ``config.yaml``), the result of a benchmark's run
            (``runs/RUN.json``), or a checkpoint of either.

    Returns:
        The task with its extractor, in evaluation mode, on the CPU.

    Raises:
        ConfigError: If there is no such run, its configuration does not make a task, or its extractor is another one
            now.
        DataError: If the checkpoint is missing or damaged, or of another network.
    """
    checkpoint, described = _find(run)
    task = _from_result(described) if described.suffix == ".json" else _from_config(described)
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = stored["state_dict"]
        if not isinstance(state, dict):
            raise TypeError("no weights")
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise DataError(f"{checkpoint}: expected a checkpoint of weights, found: {_line(error)}") from error
    task.on_load_checkpoint(stored)
    try:
        task.load_state_dict(stored["state_dict"])
    except RuntimeError as error:
        raise DataError(f"{checkpoint}: its weights do not fit the task of {described}: {_line(error)}") from error
    return task.eval()


def _find(run: Path) -> tuple[Path, Path]:
    """Return the checkpoint, and the file that says what task it is of."""
    if run.suffix == ".json" and run.is_file():
        return run.parent.parent / "checkpoints" / run.stem / _BEST, run
    if run.is_dir():
        return _only_checkpoint(run), _description(run)
    if not run.is_file():
        raise ConfigError(
            f"there is no run {str(run)!r}; give a folder of `sonido-bench fit`, a RUN.json of `sonido-bench run`, or "
            "a checkpoint of either"
        )
    return run, _description(run.parent)


def _description(folder: Path) -> Path:
    """Return the file that belongs to the checkpoints of a folder."""
    folder = folder.resolve()
    candidates = [folder / _CONFIG, folder.parent / _CONFIG, folder.parent.parent / "runs" / f"{folder.name}.json"]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ConfigError(
            f"{folder}: expected {_CONFIG} beside the checkpoint, or the result of its run, found neither; keep what "
            "`sonido-bench fit` or `run` writes together"
        )
    return found


def _only_checkpoint(folder: Path) -> Path:
    """Return the best checkpoint of a run's folder, or the only one."""
    for best in (folder / _BEST, folder / "checkpoints" / _BEST):
        if best.is_file():
            return best
    found = sorted(folder.glob("**/*.ckpt"))
    if len(found) != 1:
        raise ConfigError(
            f"{folder}: expected one checkpoint, or one named {_BEST}, found {len(found)}; name the one to use"
        )
    return found[0]


def _from_config(path: Path) -> FeatureTask:
    """Build the task of a configuration that LightningCLI stored."""
    try:
        model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        config = ClassConfig(str(model["class_path"]), dict(model.get("init_args") or {}))
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: expected a configuration of `sonido-bench fit`, found: {_line(error)}") from error
    return _checked(build(_task_class(config), {}), path)


def _from_result(path: Path) -> FeatureTask:
    """Build the task of a benchmark's run."""
    config = load_result(path).config
    experiment, defined = config["experiment"], config.get("arm")
    model = ClassConfig(config["model"]["class_path"], config["model"]["init_args"])
    task = TaskConfig(experiment["task"], experiment["network"], _task_class(model), Budget(**config["budget"]))
    extractor = arm_extractor(ArmConfig(experiment["arm"], ClassConfig(**defined) if defined else None))
    return _checked(build_task(task, extractor), path)


def _task_class(config: ClassConfig) -> ClassConfig:
    """Refuse a class that is no task before it is built."""
    found = import_class(config.class_path)
    if not (isinstance(found, type) and issubclass(found, FeatureTask)):
        raise ConfigError(f"expected the class of a task, found {config.class_path}")
    return config


def _checked(task: Any, path: Path) -> FeatureTask:
    assert isinstance(task, FeatureTask), path  # its class was checked
    return task


def _line(error: Exception) -> str:
    """Return an error's message as one line that is not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) < 300 else f"{text[:300]} ..."
