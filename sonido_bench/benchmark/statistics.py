"""An estimate with its interval and p-value, from several seeds and many resamples of the items: docs/statistics.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtr  # scipy.stats has the same, but takes half a second to import

__all__ = ["ALPHA", "Estimate", "estimate", "holm"]

ALPHA = 0.05
"""Level of tests; intervals are at 1 - ALPHA."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and items.

    Attributes:
        mean: Of all.
        low: Lower end of the 95 % interval; ``None`` with fewer than two seeds or items.
        high: Its upper end.
        p: Two-sided p-value of the mean being zero; below 0.05 exactly when the interval excludes zero.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def estimate(values: NDArray[np.float64], items: int) -> Estimate:
    """Estimate a mean that varies with the seed of training and with the choice of test items.

    Its squared standard error is the variance between seeds over their number, plus the variance between bootstrap
    resamples of the items of the mean over seeds. The first comes from few seeds and is itself uncertain, so the
    error is referred to the distribution of Behrens (1929) and Fisher (1935); Satterthwaite's degrees of freedom are
    too many where a small variance between seeds was a matter of luck (docs/statistics.md).

    Args:
        values: Scores or differences, ``(seeds, 1 + resamples)``; column 0 is the whole test set. Resamples in which
            the score is not defined (NaN) are left out.
        items: Size of the test set.
    """
    seeds = len(values)
    mean = float(values[:, 0].mean())
    resampled = values[:, 1:].mean(axis=0)
    resampled = resampled[np.isfinite(resampled)]
    if min(seeds, items, len(resampled)) < 2:
        return Estimate(mean)
    between_seeds = float(values[:, 0].var(ddof=1)) / seeds
    between_items = float(resampled.var(ddof=1))
    if between_seeds + between_items == 0:
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    error = _Error(between_seeds, seeds - 1, between_items, items - 1)
    margin = error.margin(ALPHA)
    return Estimate(mean, mean - margin, mean + margin, error.tails(abs(mean)))


class _Error:
    """The sum of an error with a variance between few seeds and one with a variance between many items.

    Given the true variance between seeds, which is the estimate times ``df / chi2`` with ``chi2`` unknown, the sum is
    normal: a mixture over ``chi2``. Student's t stands for the normal, so that few items are allowed for as well.
    """

    def __init__(self, between_seeds: float, seed_degrees: int, between_items: float, item_degrees: int) -> None:
        # The trapezoidal rule in log(chi2) converges exponentially; the ends are far outside of the mass.
        spread = sqrt(2 / seed_degrees)
        left, right = 12 * max(spread, 6 / seed_degrees), 8 * spread
        logs = log(seed_degrees) + np.linspace(-left, right, 200)
        density = np.exp(seed_degrees / 2 * (logs - log(seed_degrees)) - np.exp(logs) / 2 + seed_degrees / 2)
        self._weights = density / density.sum()
        self._scales = np.sqrt(between_items + between_seeds * seed_degrees / np.exp(logs))
        self._degrees = item_degrees

    def tails(self, distance: float) -> float:
        """Return the chance of an error of at least a distance, in either direction."""
        return min(1.0, 2 * float(self._weights @ stdtr(self._degrees, -distance / self._scales)))

    def margin(self, level: float) -> float:
        """Return the distance at which the tails have a level."""
        high = float(self._scales @ self._weights)
        while self.tails(high) > level:
            high *= 2
        return float(brentq(lambda distance: self.tails(distance) - level, 0.0, high, xtol=1e-13 * high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979): the chance of any false rejection stays below the level.

    Returns:
        Corrected p-values in the given order, at most 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
