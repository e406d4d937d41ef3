"""From the names in a benchmark file to objects, with every argument checked."""

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from sonido_bench.benchmark.config import ArmConfig, BenchmarkConfig, ClassConfig, TaskConfig
from sonido_bench.benchmark.experiment import BASELINE
from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.foundation.catalogue import load_extractor
from sonido_bench.foundation.controls import randomised

__all__ = ["arm_extractor", "build", "build_data", "build_task", "dataset_names", "import_class"]


def build(config: ClassConfig, given: Mapping[str, Any]) -> Any:
    """Construct a class.

    Args:
        config: Its import path and the arguments from the file, which are type-checked.
        given: Further arguments, which the file may not set.

    Raises:
        ConfigError: If the class does not exist, or an argument is misspelt, missing or of a wrong type.
    """
    constructor = import_class(config.class_path)
    parser = ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(constructor, "init", skip=set(given), instantiate=False, fail_untyped=True)
    if unknown := sorted({f"init.{name}" for name in config.init_args} - set(names)):
        expected = ", ".join(sorted(name.removeprefix("init.") for name in names))
        raise ConfigError(f"{config.class_path} has no option {unknown[0][5:]!r} to set here; it has {expected}")
    try:
        parsed = parser.parse_object({"init": dict(config.init_args)})
        arguments = parser.instantiate_classes(parsed).init
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(f"{config.class_path}: {' '.join(str(error).split())}") from error
    return constructor(**arguments, **given)


def import_class(path: str) -> Any:
    """Return the class that an import path names.

    Raises:
        ConfigError: If there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"there is no class {path!r}: {error}") from error


def arm_extractor(arm: ArmConfig) -> Extractor | None:
    """Return the frozen model of an arm, ``None`` for the baseline; the last two are kept in memory.

    Raises:
        ConfigError: If there is no such extractor, class, control or argument.
    """
    if arm.name == BASELINE:
        return None
    defined = arm.extractor and json.dumps([arm.extractor.class_path, dict(arm.extractor.init_args)], default=str)
    return _load(arm.name, defined)


@lru_cache(maxsize=2)
def _load(name: str, defined: str | None) -> Extractor:
    """Build an extractor by its name, or from its class and arguments as JSON, which a cache can have as its key."""
    if defined is None:
        return load_extractor(name)
    config = ClassConfig(*json.loads(defined))
    extractor = build(config, {})
    if not isinstance(extractor, Extractor):
        raise ConfigError(f"arm {name}: expected an extractor, {config.class_path} is none")
    return randomised(extractor) if name.endswith("@random") else extractor


def build_task(task: TaskConfig, extractor: Extractor | None) -> Any:
    """Construct a task model with or without features."""
    return build(task.model, {"extractor": extractor, "max_steps": task.budget.max_steps})


def build_data(config: BenchmarkConfig, task: TaskConfig, target: str, fraction: float = 1.0, seed: int = 0) -> Any:
    """Construct the data set of a task for its model's target."""
    budget = task.budget
    given = {
        "target": target,
        "fraction": fraction,
        "seed": seed,
        "batch_size": budget.batch_size,
        "batches_per_epoch": budget.validate_every,
    }
    return build(config.task_data(task), given)


def dataset_names(config: BenchmarkConfig) -> dict[str, str]:
    """Return the name of each task's data set.

    Raises:
        ConfigError: If there is no such class.
    """
    return {name: str(import_class(config.task_data(task).class_path).name) for name, task in config.tasks.items()}
