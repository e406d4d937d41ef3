"""A benchmark as a YAML file: which tasks, data, arms, fractions and seeds."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from itertools import chain, product
from operator import index
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sonido_bench.benchmark.experiment import BASELINE, Experiment
from sonido_bench.errors import ConfigError
from sonido_bench.files import sha256_json
from sonido_bench.foundation.catalogue import built_in_names

__all__ = [
    "ArmConfig",
    "BenchmarkConfig",
    "Budget",
    "ClassConfig",
    "Selection",
    "TaskConfig",
    "config_hash",
    "load_benchmark",
]

T = TypeVar("T")

_RANDOM = "@random"


@dataclass(frozen=True)
class ClassConfig:
    """A class and its constructor's arguments, as LightningCLI writes them."""

    class_path: str
    init_args: Mapping[str, Any]


@dataclass(frozen=True)
class ArmConfig:
    """One arm: the features of an extractor, those of its control, or none.

    Attributes:
        name: As on the leaderboard.
        extractor: Of an arm that the file defines itself, or of its control ``@random``; ``None`` where the name alone
            says what it is.
    """

    name: str
    extractor: ClassConfig | None = None


@dataclass(frozen=True)
class Budget:
    """What both halves of a pair may spend.

    Attributes:
        batch_size: Clips per step.
        max_steps: Optimiser steps at most.
        validate_every: Steps between two validations.
        patience: Validations without improvement after which training stops.
    """

    batch_size: int
    max_steps: int
    validate_every: int
    patience: int

    def __post_init__(self) -> None:
        """Refuse budgets that train nothing."""
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"budget.{name} must be a positive whole number, got {value!r}")


@dataclass(frozen=True)
class TaskConfig:
    """One task of a benchmark: the task model (without its extractor), its budget, and what else it has of its own.

    Attributes:
        name: As on the leaderboard.
        network: The task model's name.
        model: The task model.
        budget: What its training may spend.
        data: A data set of its own; ``None`` for the benchmark's.
        data_args: Arguments of the benchmark's data set that are others for this task.
        fractions: Training fractions of its own; ``None`` for the benchmark's.
        seeds: Seeds of its own; ``None`` for the benchmark's.
    """

    name: str
    network: str
    model: ClassConfig
    budget: Budget
    data: ClassConfig | None = None
    data_args: Mapping[str, Any] = field(default_factory=dict)
    fractions: Sequence[float] | None = None
    seeds: Sequence[int] | None = None


@dataclass(frozen=True)
class Selection:
    """A part of the grid, from the command line; ``None`` keeps all."""

    tasks: Sequence[str] | None = None
    arms: Sequence[str] | None = None
    fractions: Sequence[float] | None = None
    seeds: Sequence[int] | None = None


@dataclass(frozen=True)
class BenchmarkConfig:
    """A benchmark: the grid of tasks x arms x fractions x seeds.

    ``data``, ``fractions`` and ``seeds`` are those of all tasks that have none of their own: ask ``task_data``,
    ``task_fractions`` and ``task_seeds``. ``extractors`` are those that the file defines under names of its own, with
    arguments.
    """

    name: str
    data: ClassConfig
    tasks: Mapping[str, TaskConfig]
    arms: Sequence[str]
    fractions: Sequence[float]
    seeds: Sequence[int]
    extractors: Mapping[str, ClassConfig] = field(default_factory=dict)

    def arm(self, name: str) -> ArmConfig:
        """Return what an arm of this benchmark is."""
        return ArmConfig(name, self.extractors.get(name.removesuffix(_RANDOM)))

    def task_data(self, task: TaskConfig) -> ClassConfig:
        """Return the data set of a task."""
        if task.data is not None:
            return task.data
        return ClassConfig(self.data.class_path, {**self.data.init_args, **task.data_args})

    def task_fractions(self, task: TaskConfig) -> Sequence[float]:
        """Return the training fractions of a task."""
        return self.fractions if task.fractions is None else task.fractions

    def task_seeds(self, task: TaskConfig) -> Sequence[int]:
        """Return the seeds of a task."""
        return self.seeds if task.seeds is None else task.seeds

    def experiments(self, datasets: Mapping[str, str]) -> list[Experiment]:
        """Return the grid, seed by seed, so that an interrupted benchmark holds whole pairs.

        The benchmark's seeds come first, then those that only tasks have.

        Args:
            datasets: Name of each task's data set.
        """
        return [
            Experiment(task.name, task.network, datasets[task.name], arm, fraction, seed)
            for seed, task in product(
                _distinct(self.seeds, *map(self.task_seeds, self.tasks.values())), self.tasks.values()
            )
            if seed in self.task_seeds(task)
            for fraction, arm in product(self.task_fractions(task), self.arms)
        ]

    def select(self, selection: Selection) -> "BenchmarkConfig":
        """Return the benchmark restricted to a part of its grid; the baseline always stays.

        Tasks that have none of the chosen fractions, or none of the chosen seeds, are left out.

        Raises:
            ConfigError: If a name, a fraction or a seed is nowhere in the grid, or nothing of the grid is left.
        """
        every = self.tasks.values()
        arms = _subset("arm", selection.arms, self.arms)
        fractions = _subset("fraction", selection.fractions, _distinct(*map(self.task_fractions, every)))
        seeds = _subset("seed", selection.seeds, _distinct(*map(self.task_seeds, every)))
        tasks = [self.tasks[name] for name in _subset("task", selection.tasks, list(self.tasks))]
        chosen = replace(
            self,
            tasks={
                task.name: replace(task, fractions=_common(task.fractions, fractions), seeds=_common(task.seeds, seeds))
                for task in tasks
            },
            arms=arms if BASELINE in arms else [BASELINE, *arms],
            fractions=_common(self.fractions, fractions) or [],
            seeds=_common(self.seeds, seeds) or [],
        )
        left = {
            name: task for name, task in chosen.tasks.items() if chosen.task_fractions(task) and chosen.task_seeds(task)
        }
        if not left:
            raise ConfigError(
                f"nothing is left of the grid: of {', '.join(chosen.tasks)}, no task has one of the fractions "
                f"{', '.join(map(str, fractions))} and one of the seeds {', '.join(map(str, seeds))}"
            )
        return replace(chosen, tasks=left)

    def experiment_config(self, experiment: Experiment) -> dict[str, Any]:
        """Return all of this file that decides an experiment's outcome, JSON-able.

        Where data and weights lie is left out: their own hashes say what they are.
        """
        task = self.tasks[experiment.task]
        defined = self.arm(experiment.arm).extractor
        return {
            "experiment": experiment.as_dict(),
            **({"arm": _without(defined, "checkpoint")} if defined else {}),
            "model": {"class_path": task.model.class_path, "init_args": dict(task.model.init_args)},
            "budget": asdict(task.budget),
            "data": _without(self.task_data(task), "root"),
        }


def _without(config: ClassConfig, path: str) -> dict[str, Any]:
    """Return a class as JSON-able values, but for the argument that is a path of this machine."""
    arguments = {key: value for key, value in config.init_args.items() if key != path}
    return {"class_path": config.class_path, "init_args": arguments}


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the hash by which a result is known to belong to a configuration."""
    return sha256_json(config)


def _subset(kind: str, wanted: Sequence[T] | None, known: Sequence[T]) -> list[T]:
    if wanted is None:
        return list(known)
    if unknown := [value for value in wanted if value not in known]:
        raise ConfigError(f"unknown {kind} {unknown[0]!r}; this benchmark has {', '.join(map(str, known))}")
    return [value for value in known if value in wanted]


def _distinct(*lists: Iterable[T]) -> list[T]:
    """Return what is in any of the lists, once, in the order in which it appears."""
    return list(dict.fromkeys(chain.from_iterable(lists)))


def _common(values: Sequence[T] | None, chosen: Sequence[T]) -> list[T] | None:
    """Return the chosen ones of a list; where there is no list, none."""
    return None if values is None else [value for value in values if value in chosen]


def find_benchmark(name: str) -> Path:
    """Return the path of a benchmark file: a path, or the name of one that is shipped (``quick``).

    Raises:
        ConfigError: If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = Path(str(files("sonido_bench") / "configs" / "benchmarks"))
    if (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    names = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
    raise ConfigError(f"no benchmark file {name!r}; give a YAML file, or one of: {names}")


def load_benchmark(name: str) -> BenchmarkConfig:
    """Read a benchmark.

    Args:
        name: A YAML file, or the name of a shipped one.

    Raises:
        ConfigError: If the file is missing, is not YAML, or has a missing, unknown or wrong entry.
    """
    path = find_benchmark(name)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    names = [each.name for each in fields(BenchmarkConfig) if each.name != "extractors"]
    entries = _entries(raw, names, str(path))
    tasks = {
        name: _task(name, task, f"{path}: tasks.{name}") for name, task in _mapping(entries["tasks"], path).items()
    }
    arms = [_arm(arm, f"{path}: arms") for arm in _list(entries["arms"], f"{path}: arms")]
    config = BenchmarkConfig(
        name=str(entries["name"]),
        data=_class(entries["data"], f"{path}: data"),
        tasks=tasks,
        arms=[arm.name for arm in arms],
        fractions=_fractions(entries["fractions"], f"{path}: fractions"),
        seeds=_seeds(entries["seeds"], f"{path}: seeds"),
        extractors={arm.name: arm.extractor for arm in arms if arm.extractor},
    )
    _check_grid(config, path)
    return config


def _check_grid(config: BenchmarkConfig, path: Path) -> None:
    if BASELINE not in config.arms:
        raise ConfigError(f"{path}: arms lack {BASELINE!r}: without the baseline there is nothing to compare with")
    _check_distinct(config.arms, f"{path}: arms")


def _check_distinct(values: Sequence[Any], where: str) -> None:
    if len(set(values)) != len(values):
        raise ConfigError(f"{where} has an entry twice: {list(values)}")


def _fractions(raw: Any, where: str) -> list[float]:
    fractions = _numbers(raw, float, where)
    if bad := [fraction for fraction in fractions if not 0 < fraction <= 1]:
        raise ConfigError(f"{where} must lie in (0, 1], got {bad[0]}")
    return fractions


def _seeds(raw: Any, where: str) -> list[int]:
    return _numbers(raw, index, where)


def _numbers(raw: Any, number: Callable[[Any], T], where: str) -> list[T]:
    """Read a list of distinct numbers."""
    values = list(_list(raw, where))
    try:
        numbers = [number(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: expected {'whole ' if number is index else ''}numbers, found {values}") from error
    _check_distinct(numbers, where)
    return numbers


def _arm(raw: Any, where: str) -> ArmConfig:
    """Read a name, or ``{name: {class_path: ..., init_args: {...}}}``."""
    if not isinstance(raw, dict):
        return ArmConfig(str(raw))
    if len(raw) != 1:
        raise ConfigError(f"{where}: expected a name, or one name with its class, found {raw!r}")
    name, extractor = next(iter(raw.items()))
    name = str(name)
    if name in (BASELINE, *built_in_names()) or set(name) & set("@:"):
        raise ConfigError(f"{where}: {name!r} has a meaning of its own; give the arm another name, without @ and :")
    return ArmConfig(name, _class(extractor, f"{where}: {name}"))


def _task(name: str, raw: Any, where: str) -> TaskConfig:
    entries = _entries(raw, ["network", "model", "budget"], where, optional=["data", "fractions", "seeds"])
    budget = _entries(entries["budget"], [each.name for each in fields(Budget)], f"{where}.budget")
    model = _class(entries["model"], f"{where}.model")
    data, data_args = _task_data(entries.get("data"), f"{where}.data")
    fractions, seeds = entries.get("fractions"), entries.get("seeds")
    return TaskConfig(
        name,
        str(entries["network"]),
        model,
        Budget(**budget),
        data,
        data_args,
        None if fractions is None else _fractions(fractions, f"{where}.fractions"),
        None if seeds is None else _seeds(seeds, f"{where}.seeds"),
    )


def _task_data(raw: Any, where: str) -> tuple[ClassConfig | None, dict[str, Any]]:
    """Read a data set of a task's own, or the arguments alone that it changes in the benchmark's."""
    if raw is None:
        return None, {}
    if isinstance(raw, dict) and "class_path" in raw:
        return _class(raw, where), {}
    return None, _mapping(_entries(raw, ["init_args"], where)["init_args"], where)


def _class(raw: Any, where: str) -> ClassConfig:
    entries = _entries(raw, ["class_path", "init_args"], where)
    return ClassConfig(str(entries["class_path"]), _mapping(entries["init_args"], where))


def _mapping(raw: Any, where: Path | str) -> dict[str, Any]:
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"{where}: expected named entries, found {raw!r}")
    return {str(key): value for key, value in raw.items()}


def _list(raw: Any, where: str) -> Iterator[Any]:
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"{where}: expected a list, found {raw!r}")
    yield from raw


def _entries(raw: Any, names: list[str], where: str, optional: Sequence[str] = ()) -> dict[str, Any]:
    """Return the entries of a section, refusing missing and unknown ones."""
    found = _mapping(raw, where)
    if unknown := sorted(set(found) - {*names, *optional}):
        raise ConfigError(f"{where}: unknown entry {unknown[0]!r}; expected {', '.join([*names, *optional])}")
    if missing := [name for name in names if name not in found]:
        raise ConfigError(f"{where}: entry {missing[0]!r} is missing; expected {', '.join(names)}")
    return found
