"""Which runs are compared with which: two runs that differ in the arm alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sonido_bench.benchmark.evaluation import item_order
from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.results import Result
from sonido_bench.errors import ResultError

__all__ = ["Runs", "group_runs", "pairs_of"]

Runs = dict[Experiment, dict[int, Result]]
"""By experiment, whose own seed is set to 0, and by seed."""


def group_runs(results: Sequence[Result]) -> Runs:
    """Group results that differ in the seed alone, sorted by task, fraction, arm and seed.

    Raises:
        ResultError: If an experiment is there twice, or two runs of a task cannot be compared.
    """
    runs: Runs = {}
    settings: dict[tuple[str, str, str], list[Result]] = {}
    for result in sorted(results, key=_order):
        experiment = result.experiment
        by_seed = runs.setdefault(replace(experiment, seed=0), {})
        if experiment.seed in by_seed:
            raise ResultError(f"there are two results of {experiment.slug}; delete one of them")
        by_seed[experiment.seed] = result
        settings.setdefault((experiment.task, experiment.network, experiment.dataset), []).append(result)
    for comparable in settings.values():
        _check_comparable(comparable)
    return runs


def pairs_of(runs: Runs, experiment: Experiment, control: Experiment) -> list[tuple[Result, Result]]:
    """Return the runs of an experiment beside those of its control, over the seeds that both have."""
    ours, theirs = (runs.get(replace(each, seed=0), {}) for each in (experiment, control))
    return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def _order(result: Result) -> tuple[Any, ...]:
    experiment = result.experiment
    place = (experiment.task, experiment.fraction, experiment.arm, experiment.network, experiment.dataset)
    return (*place, experiment.seed)


def _check_comparable(runs: Sequence[Result]) -> None:
    """Refuse runs that were not tested on the same items by the same metrics."""
    first = runs[0]
    names, targets = _items(first)
    for run in runs[1:]:
        slugs = f"{first.experiment.slug} and {run.experiment.slug}"
        run_names, run_targets = _items(run)
        if run_names != names:
            common = len(set(names) & set(run_names))
            raise ResultError(
                f"{slugs} were tested on different items ({len(names)} and {len(run_names)}, {common} in common); "
                "delete the older one and run it again"
            )
        if run.data != first.data:
            raise ResultError(f"{slugs} used different data: {_join(first.data)}; {_join(run.data)}; run one again")
        if run.metrics != first.metrics:
            raise ResultError(f"{slugs} were scored by different metrics; run one of them again")
        if run_targets != targets:
            raise ResultError(f"{slugs} have different targets for the same items; run one of them again")


def _items(run: Result) -> tuple[list[str], list[list[float]]]:
    """Return names and targets in the order of names."""
    order = item_order(run)
    targets = run.items.targets
    if targets and len(targets) != len(order):
        raise ResultError(f"{run.experiment.slug} has {len(order)} test items but {len(targets)} targets; run it again")
    return [run.items.names[index] for index in order], [targets[index] for index in order] if targets else []


def _join(data: Any) -> str:
    return " ".join(str(value) for value in data.values())
