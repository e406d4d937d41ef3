"""The test scores of runs, on the whole test set and on resamples of it, made comparable between runs."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sonido_bench.benchmark.resampling import Weights, bootstrap_weights, weighted_mean, weighted_score
from sonido_bench.benchmark.results import Result
from sonido_bench.errors import ResultError
from sonido_bench.metrics.metric import Metric

__all__ = ["Evaluation", "item_order", "item_scores"]

Floats = NDArray[np.float64]


class Evaluation:
    """Scores runs on resamples of their test sets; each run once, however often it is compared.

    Args:
        weigh: Makes the weights, ``(items, 1 + resamples)`` with ones in column 0, for a number of items. Runs on the
            same test set share them, which is what pairs their resamples.
    """

    def __init__(self, weigh: Callable[[int], Weights]) -> None:
        self._weigh = weigh
        self._weights: dict[int, Weights] = {}
        self._scores: dict[tuple[int, str], Floats] = {}

    @classmethod
    def bootstrap(cls, resamples: int, seed: int) -> "Evaluation":
        """Return an evaluation on bootstrap resamples of the items."""
        return cls(lambda items: bootstrap_weights(items, resamples, seed))

    def scores(self, run: Result, metric: Metric) -> Floats:
        """Return a run's score on the test set (element 0) and on its resamples, shape ``(1 + resamples,)``.

        Raises:
            ResultError: If the run's items do not give this score.
        """
        key = (id(run), metric.name)
        if key not in self._scores:
            self._scores[key] = self._score(run, metric)
        return self._scores[key]

    def differences(self, pairs: Sequence[tuple[Result, Result]], metric: Metric) -> Floats:
        """Return by how much the first of each pair is better than the second, ``(pairs, 1 + resamples)``.

        Raises:
            ResultError: If a run's items do not give this score.
        """
        sign = 1 if metric.higher_is_better else -1
        return sign * np.stack([self.scores(first, metric) - self.scores(second, metric) for first, second in pairs])

    def _score(self, run: Result, metric: Metric) -> Floats:
        weights = self._weights_for(len(run.items.names))
        if metric.aggregation == "mean":
            scores = weighted_mean(item_scores(run, metric), weights)
        else:
            scores = weighted_score(metric.aggregation, *_targets_and_predictions(run, metric), weights)
        if not np.isfinite(scores[0]):
            raise ResultError(f"{run.experiment.slug}: {metric.name} is not defined on this test set; use a larger one")
        return scores

    def _weights_for(self, items: int) -> Weights:
        if items not in self._weights:
            self._weights[items] = self._weigh(items)
        return self._weights[items]


def item_order(run: Result) -> list[int]:
    """Return the places of a run's items in the order of their names, by which runs are aligned.

    Raises:
        ResultError: If there is no item, or two have the same name.
    """
    names = run.items.names
    if not names or len(set(names)) < len(names):
        raise ResultError(
            f"{run.experiment.slug}: only {len(set(names))} of {len(names)} test items have names of their own"
        )
    return sorted(range(len(names)), key=names.__getitem__)


def item_scores(run: Result, metric: Metric) -> Floats:
    """Return the per-item scores of a metric with aggregation ``mean``, in the order of names, ``(items,)``.

    Raises:
        ResultError: If they are missing, of another length, or not numbers.
    """
    return _matrix(run, metric, run.items.scores.get(metric.name, []), dimensions=1)


def _targets_and_predictions(run: Result, metric: Metric) -> tuple[Floats, Floats]:
    targets = _matrix(run, metric, run.items.targets, dimensions=2)
    predictions = _matrix(run, metric, run.items.predictions, dimensions=2)
    if targets.shape != predictions.shape:
        raise ResultError(f"{run.experiment.slug}: targets are {targets.shape} but predictions {predictions.shape}")
    return targets, predictions


def _matrix(run: Result, metric: Metric, rows: Sequence[object], dimensions: int) -> Floats:
    """Return rows of numbers as an array in the order of the items' names."""
    try:
        array = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != dimensions or len(array) != len(run.items.names) or not np.isfinite(array).all():
        raise ResultError(
            f"{run.experiment.slug}: expected finite numbers for each of {len(run.items.names)} items "
            f"to compute {metric.name}, found {len(rows)} rows; run it again"
        )
    ordered: Floats = array[item_order(run)]
    return ordered
