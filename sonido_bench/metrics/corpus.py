"""Scores that a whole set has and no single item: ranking scores of tags, explained variance.

Written here because they leave out the classes that a small set does not define: torchmetrics counts the ROC-AUC of a
class without a positive item as 0. Tested against scikit-learn.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

__all__ = ["CORPUS_SCORES", "average_precision", "r2", "roc_auc"]

Array = NDArray[np.float64]


def average_precision(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Mean over classes of the average precision ("map").

    Args:
        targets: ``(items, classes)``, 0 or 1.
        predictions: ``(items, classes)``; higher is likelier. Equal predictions share a rank.

    Returns:
        In [0, 1]; the mean leaves out classes without a positive item, and is NaN where all are.

    Raises:
        ValueError: If the shapes differ, or a prediction is not finite.
    """
    truth, scores = _pair(targets, predictions)
    above = rankdata(-scores, method="max", axis=0).astype(np.int64)  # items scored at least as high
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.cumsum(np.take_along_axis(truth, order, axis=0), axis=0)
    precision = np.take_along_axis(hits, above - 1, axis=0) / above
    return _mean_of_defined((precision * truth).sum(0), truth.sum(0))


def roc_auc(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Mean over classes of the area under the ROC curve.

    Args:
        targets: ``(items, classes)``, 0 or 1.
        predictions: ``(items, classes)``; a tie between a positive and a negative item counts one half.

    Returns:
        In [0, 1]; the mean leaves out classes that are all positive or all negative, and is NaN where all are.

    Raises:
        ValueError: If the shapes differ, or a prediction is not finite.
    """
    truth, scores = _pair(targets, predictions)
    positives = truth.sum(0)
    negatives = len(truth) - positives
    # The Mann-Whitney statistic: how often a positive item outranks a negative one.
    wins = (rankdata(scores, axis=0) * truth).sum(0) - positives * (positives + 1) / 2
    return _mean_of_defined(wins, positives * negatives)


def r2(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Mean over outputs of the coefficient of determination.

    Args:
        targets: ``(items, outputs)``.
        predictions: ``(items, outputs)``.

    Returns:
        At most 1; predicting the mean gives 0. The mean leaves out outputs whose targets are all equal, and is NaN
        where all are.

    Raises:
        ValueError: If the shapes differ, or a prediction is not finite.
    """
    truth, estimates = _pair(targets, predictions)
    variance = np.square(truth - truth.mean(0)).sum(0) * (np.ptp(truth, axis=0) > 0)  # exactly 0 for equal targets
    return _mean_of_defined(variance - np.square(truth - estimates).sum(0), variance)


def _pair(targets: ArrayLike, predictions: ArrayLike) -> tuple[Array, Array]:
    """Return both as ``(items, columns)`` of the same shape."""
    truth, scores = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 2 or not len(truth):
        raise ValueError(
            f"expected targets and predictions of one shape (items, columns), got {truth.shape}, {scores.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("predictions are not finite")
    return truth, scores


def _mean_of_defined(numerator: Array, denominator: Array) -> float:
    """Mean of the quotients whose denominator is not zero; NaN where all are."""
    defined = denominator > 0
    return float((numerator[defined] / denominator[defined]).mean()) if defined.any() else float("nan")


CORPUS_SCORES: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "average_precision": average_precision,
    "roc_auc": roc_auc,
    "r2": r2,
}
"""The function of each corpus-level ``Aggregation``."""
