"""One task's arms beside the baseline: all metrics, seed by seed and item by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonido_bench.benchmark.evaluation import Evaluation, item_order
from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.leaderboard import LEADERBOARD_SCHEMA, Row, build_leaderboard
from sonido_bench.benchmark.pairing import group_runs, pairs_of
from sonido_bench.benchmark.resampling import leave_one_out_weights
from sonido_bench.benchmark.results import Result
from sonido_bench.errors import ConfigError
from sonido_bench.files import atomic_path

__all__ = ["ComparedArm", "Comparison", "compare", "save_item_plot"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ComparedArm:
    """One arm, fraction and metric beside the baseline.

    Attributes:
        row: As on the leaderboard, with the same corrected p-value.
        seed_boosts: Boost of each seed that both have.
        items: Names of the test items.
        item_boosts: What each item says for the arm, mean over seeds, positive is better: its jackknife
            pseudo-value, ``I x boost - (I - 1) x boost without it``. For a metric that every item has, that is its
            paired difference; for a corpus-level one it counts how the item moves the score of all.
        pseudo: Whether the metric is a corpus-level one.
    """

    row: Row
    seed_boosts: dict[int, float]
    items: list[str]
    item_boosts: Floats
    pseudo: bool


@dataclass(frozen=True)
class Comparison:
    """A task's arms beside the baseline, sorted by fraction and arm."""

    task: str
    arms: list[ComparedArm]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form: the leaderboard's, with ``seed_boosts`` in every row."""
        rows = [{**arm.row.as_dict(), "seed_boosts": arm.seed_boosts} for arm in self.arms]
        return {"schema": LEADERBOARD_SCHEMA, "task": self.task, "rows": rows}


def compare(
    results: Sequence[Result], task: str, arms: Sequence[str] | None = None, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare a task's arms with the baseline by all of its metrics.

    Args:
        results: All runs of a benchmark: p-values are corrected over all of them, as on the leaderboard.
        task: Which task.
        arms: Which arms; ``None`` for all.
        resamples: Bootstrap resamples of the test items.
        seed: Of the resamples.

    Raises:
        ConfigError: If the task or an arm has no pair of runs.
        ResultError: If runs that should be compared have different items, data or metrics.
    """
    rows = [row for row in build_leaderboard(results, resamples, seed, metrics="all").rows if row.task == task]
    _check_known("task", [task], sorted({row.task for row in rows}), results)
    _check_known("arm", arms or [], sorted({row.arm for row in rows}), results)
    runs = group_runs(results)
    left_out = Evaluation(leave_one_out_weights)
    compared = []
    for row in rows:
        if arms is None or row.arm in arms:
            experiment = Experiment(row.task, row.network, row.dataset, row.arm, row.fraction, seed=0)
            compared.append(_compare_arm(row, pairs_of(runs, experiment, experiment.baseline), left_out))
    return Comparison(task, compared)


def _check_known(kind: str, wanted: Sequence[str], known: Sequence[str], results: Sequence[Result]) -> None:
    for name in wanted:
        if name not in known:
            there = ", ".join(known) or ", ".join(sorted({result.experiment.task for result in results}))
            raise ConfigError(f"no {kind} {name!r} with a run beside its baseline; there are: {there}")


def _compare_arm(row: Row, pairs: list[tuple[Result, Result]], left_out: Evaluation) -> ComparedArm:
    first = pairs[0][0]
    metric = next(metric for metric in first.metrics if metric.name == row.metric)
    differences = left_out.differences(pairs, metric)
    seeds = [ours.experiment.seed for ours, _ in pairs]
    mean = differences.mean(axis=0)
    pseudo_values = row.items * mean[0] - (row.items - 1) * mean[1:]
    # a class that is lost with its only positive leaves no score; rounding makes equal scores equal
    item_boosts = np.round(np.where(np.isfinite(pseudo_values), pseudo_values, mean[0]), 9)
    names = [first.items.names[index] for index in item_order(first)]
    return ComparedArm(
        row, dict(zip(seeds, differences[:, 0].tolist(), strict=True)), names, item_boosts, metric.aggregation != "mean"
    )


def save_item_plot(comparison: Comparison, path: Path) -> None:
    """Plot the primary metric's boost of every test item, sorted: one panel per arm and fraction.

    Args:
        comparison: What ``compare`` returned.
        path: Where to; its suffix decides the format (``.svg``, ``.png``, ``.pdf``).
    """
    from matplotlib.figure import Figure  # here: half a second, and tables need none of it

    arms = [arm for arm in comparison.arms if arm.row.primary]
    columns = min(3, len(arms))
    height = -(-len(arms) // columns)
    figure = Figure(figsize=(4 * columns, 3 * height), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False, sharey=True)
    for panel, arm in zip(panels.flat, arms, strict=False):
        _plot_items(panel, arm)
    for panel in panels.flat[len(arms) :]:
        panel.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _plot_items(panel: Any, arm: ComparedArm) -> None:
    boosts = np.sort(arm.item_boosts)[::-1]
    places = np.arange(1, len(boosts) + 1)
    panel.fill_between(places, boosts, where=boosts >= 0, color="#0072B2", step="mid", linewidth=0)
    panel.fill_between(places, boosts, where=boosts <= 0, color="#D55E00", step="mid", linewidth=0)
    panel.axhline(arm.row.boost, color="black", linestyle="--", linewidth=1)
    better, worse = int((boosts > 0).sum()), int((boosts < 0).sum())
    network = arm.row.network
    panel.set_title(
        f"{arm.row.arm}, {network}, {100 * arm.row.fraction:g} % of training clips\n"
        f"better {better}, equal {len(boosts) - better - worse}, worse {worse}",
        fontsize=9,
        parse_math=False,
    )
    panel.set_xlabel("test items, sorted", fontsize=8)
    quantity = "pseudo-value of" if arm.pseudo else "boost of"
    panel.set_ylabel(f"{quantity} {arm.row.metric}", fontsize=8, parse_math=False)
    panel.tick_params(labelsize=8)
