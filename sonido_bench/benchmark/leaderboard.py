"""The leaderboard: every arm against the baseline, a pure function of a folder of results."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from sonido_bench.benchmark.evaluation import Evaluation
from sonido_bench.benchmark.experiment import BASELINE, Experiment
from sonido_bench.benchmark.pairing import Runs, group_runs, pairs_of
from sonido_bench.benchmark.results import Result
from sonido_bench.benchmark.statistics import ALPHA, Estimate, estimate, holm
from sonido_bench.metrics.metric import Metric

__all__ = ["LEADERBOARD_SCHEMA", "Leaderboard", "Point", "Row", "Verdict", "build_leaderboard"]

LEADERBOARD_SCHEMA = 1
"""Of the JSON form; raised whenever the meaning of a field changes."""

Verdict = Literal["boosts", "no difference shown", "hurts", "not enough seeds"]


@dataclass(frozen=True)
class Row:
    """One arm against the baseline.

    Attributes:
        task: Task.
        network: Task network.
        dataset: Data set.
        metric: Name of the metric.
        primary: Whether it is the task's primary metric.
        higher_is_better: Its direction.
        arm: The arm that is compared with ``none``.
        fraction: Share of the training clips.
        seeds: Number of seeds that both arms have.
        items: Number of test items.
        score: Of the arm, mean over these seeds.
        baseline: Of the baseline, over the same seeds.
        boost: Mean paired difference; positive is better whatever the metric's direction.
        ci_low: Lower end of its 95 % interval; ``None`` with fewer than two seeds or items.
        ci_high: Its upper end.
        p: Two-sided p-value.
        p_holm: The same, corrected over all rows of the leaderboard that are primary, or over all that are not.
        verdict: By ``p_holm`` below 0.05, and the sign of the boost.
        boost_over_random: The same difference from the arm's untrained control, where there is one.
        boost_over_random_ci_low: Lower end of its interval.
        boost_over_random_ci_high: Its upper end.
        boost_over_random_p: Its p-value, uncorrected.
    """

    task: str
    network: str
    dataset: str
    metric: str
    primary: bool
    higher_is_better: bool
    arm: str
    fraction: float
    seeds: int
    items: int
    score: float
    baseline: float
    boost: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
    p_holm: float | None
    verdict: Verdict
    boost_over_random: float | None
    boost_over_random_ci_low: float | None
    boost_over_random_ci_high: float | None
    boost_over_random_p: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-able."""
        return asdict(self)

    @classmethod
    def columns(cls) -> list[str]:
        """Return the names of the fields."""
        return [field.name for field in fields(cls)]


@dataclass(frozen=True)
class Point:
    """Score of one arm, the baseline included, by the primary metric: a point of a data-scarcity curve.

    The interval is that of the score itself. It is wider than that of a paired difference: overlapping intervals of
    two arms do not show that they are equal.
    """

    task: str
    network: str
    dataset: str
    metric: str
    arm: str
    fraction: float
    seeds: int
    score: float
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class Leaderboard:
    """What a folder of results shows.

    Attributes:
        rows: Sorted by task, fraction and arm; of one arm, the primary metric first.
        points: Scores by arm and fraction.
        unpaired: Number of runs without another half.
    """

    rows: list[Row]
    points: list[Point]
    unpaired: int

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form: ``{"schema": 1, "rows": [...]}``."""
        return {"schema": LEADERBOARD_SCHEMA, "rows": [row.as_dict() for row in self.rows]}


def build_leaderboard(
    results: Sequence[Result],
    resamples: int = 1000,
    seed: int = 0,
    metrics: Literal["primary", "all"] = "primary",
) -> Leaderboard:
    """Compare every arm with the baseline, and every trained extractor with its untrained control.

    Args:
        results: All runs of a benchmark; their order does not matter.
        resamples: Bootstrap resamples of the test items.
        seed: Of the resamples.
        metrics: The primary metric of each task, or all; the others are a Holm family of their own.

    Raises:
        ResultError: If two runs that should be compared have different items, data or metrics.
    """
    runs = group_runs(results)
    evaluation = Evaluation.bootstrap(resamples, seed)
    rows: list[Row] = []
    paired: set[Experiment] = set()
    for experiment, by_seed in runs.items():
        pairs = pairs_of(runs, experiment, experiment.baseline) if experiment.arm != BASELINE else []
        paired.update(run.experiment for pair in pairs for run in pair)
        chosen = _metrics(by_seed, metrics) if pairs else ()
        rows += [_row(runs, pairs, metric, evaluation) for metric in chosen]
    points = [_point(experiment, list(by_seed.values()), evaluation) for experiment, by_seed in runs.items()]
    return Leaderboard(_judge(rows), points, unpaired=len(results) - len(paired))


def _metrics(by_seed: dict[int, Result], which: Literal["primary", "all"]) -> tuple[Metric, ...]:
    metrics = next(iter(by_seed.values())).metrics
    return metrics if which == "all" else metrics[:1]


def _row(runs: Runs, pairs: list[tuple[Result, Result]], metric: Metric, evaluation: Evaluation) -> Row:
    """Return a row that is not yet judged."""
    experiment = pairs[0][0].experiment
    items = len(pairs[0][0].items.names)
    boost = estimate(evaluation.differences(pairs, metric), items)
    over_random = _over_random(runs, experiment, metric, evaluation)
    return Row(
        task=experiment.task,
        network=experiment.network,
        dataset=experiment.dataset,
        metric=metric.name,
        primary=metric == pairs[0][0].primary,
        higher_is_better=metric.higher_is_better,
        arm=experiment.arm,
        fraction=experiment.fraction,
        seeds=len(pairs),
        items=items,
        score=float(np.mean([evaluation.scores(ours, metric)[0] for ours, _ in pairs])),
        baseline=float(np.mean([evaluation.scores(theirs, metric)[0] for _, theirs in pairs])),
        boost=boost.mean,
        ci_low=boost.low,
        ci_high=boost.high,
        p=boost.p,
        p_holm=None,
        verdict="not enough seeds",
        boost_over_random=over_random.mean if over_random else None,
        boost_over_random_ci_low=over_random.low if over_random else None,
        boost_over_random_ci_high=over_random.high if over_random else None,
        boost_over_random_p=over_random.p if over_random else None,
    )


def _over_random(runs: Runs, experiment: Experiment, metric: Metric, evaluation: Evaluation) -> Estimate | None:
    """Compare a trained extractor with its untrained control; ``None`` for controls, or where there is none."""
    if "@" in experiment.arm:
        return None
    pairs = pairs_of(runs, experiment, replace(experiment, arm=f"{experiment.arm}@random"))
    return estimate(evaluation.differences(pairs, metric), len(pairs[0][0].items.names)) if pairs else None


def _point(experiment: Experiment, runs: list[Result], evaluation: Evaluation) -> Point:
    metric = runs[0].primary
    score = estimate(np.stack([evaluation.scores(run, metric) for run in runs]), len(runs[0].items.names))
    e = experiment
    place = (e.task, e.network, e.dataset, metric.name, e.arm, e.fraction)
    return Point(*place, len(runs), score.mean, score.low, score.high)


def _judge(rows: list[Row]) -> list[Row]:
    """Correct the p-values, of primary metrics and of others each among themselves, and give the verdicts."""
    corrected: dict[int, float] = {}
    for primary in (True, False):
        family = [(index, row.p) for index, row in enumerate(rows) if row.primary == primary and row.p is not None]
        corrected.update(zip((index for index, _ in family), holm([p for _, p in family]), strict=True))
    return [_with_verdict(row, corrected.get(index)) for index, row in enumerate(rows)]


def _with_verdict(row: Row, p_holm: float | None) -> Row:
    if p_holm is None:
        return row
    verdict: Verdict = "no difference shown"
    if p_holm < ALPHA:
        verdict = "boosts" if row.boost > 0 else "hurts"
    return replace(row, p_holm=p_holm, verdict=verdict)
