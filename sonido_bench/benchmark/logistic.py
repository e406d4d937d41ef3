"""Logistic regression, exact and fast enough to be fitted a hundred times: what a linear probe is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import log_softmax

__all__ = ["PENALTIES", "LinearProbe", "choose_penalty", "fit_probe"]

Floats = NDArray[np.floating[Any]]

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""What cross-validation chooses from, strongest first; scikit-learn's ``C`` is ``1 / (penalty * items)``."""

_SMALLEST = 1e-6  # share of the largest eigenvalue: directions with less variance are rounding errors
_ITERATIONS = 200
_TOLERANCE = 1e-6  # of the gradient's largest entry, in units of the mean loss
_ROUGH = 1e-4  # the same, where penalties are only compared


@dataclass(frozen=True)
class LinearProbe:
    """A fitted model: ``features @ weight + bias`` are the logits of the classes.

    Attributes:
        weight: ``(dim, classes)``.
        bias: ``(classes,)``.
    """

    weight: Floats
    bias: Floats

    def __call__(self, features: Floats) -> Floats:
        """Return the logits ``(items, classes)`` of features ``(items, dim)``."""
        logits: Floats = features @ self.weight + self.bias
        return logits


def fit_probe(features: Floats, targets: Floats, penalty: float, exclusive: bool) -> LinearProbe:
    """Fit logistic regression on standardised features.

    The mean over items of the cross-entropy (of the softmax, or summed over independent classes) plus
    ``penalty / 2`` times the squared norm of the weights of the standardised features is minimised; biases are free.

    Args:
        features: ``(items, dim)``, float32 or float64, which is also the precision of the matrix products.
        targets: ``(items, classes)``, 0 or 1; one 1 in every row if ``exclusive``.
        penalty: Above zero.
        exclusive: Softmax over the classes, instead of a sigmoid for each.
    """
    space = _Space(features)
    weight, bias = _minimise(space.coordinates, targets, penalty, exclusive, _TOLERANCE, None)
    return space.probe(weight, bias)


def choose_penalty(
    features: Floats,
    targets: Floats,
    exclusive: bool,
    groups: NDArray[np.int64],
    penalties: Sequence[float] = PENALTIES,
    folds: int = 4,
) -> float:
    """Return the penalty whose probes tell held-out groups best (mean cross-entropy), by cross-validation.

    Features are standardised over all items once, not in every fold.

    Args:
        features: ``(items, dim)``.
        targets: ``(items, classes)``, 0 or 1.
        exclusive: As in ``fit_probe``.
        groups: Number of each item's group, ``(items,)``: items that are alike, such as frames of one clip, are held
            out together.
        penalties: To choose from, strongest first: each fit starts from the one before.
        folds: Parts of the groups, each held out once.
    """
    coordinates = _Space(features).coordinates
    _, group = np.unique(groups, return_inverse=True)
    part = (np.random.default_rng(0).permutation(group.max() + 1) % folds)[group]
    losses = np.zeros(len(penalties))
    for fold in range(folds):
        fitted = None
        for index, penalty in enumerate(penalties):
            kept = part != fold
            fitted = _minimise(coordinates[kept], targets[kept], penalty, exclusive, _ROUGH, fitted)
            logits = coordinates[part == fold] @ fitted[0] + fitted[1]
            losses[index] += _cross_entropy(logits, targets[part == fold], exclusive)[0]
    return penalties[int(losses.argmin())]


class _Space:
    """Standardised features in the coordinates of their principal axes.

    A rotation leaves the penalty alone, so that the fit is the same; the axes along which nothing varies are left
    out, which makes many features of few items cheap.

    Args:
        features: ``(items, dim)``.
    """

    def __init__(self, features: Floats) -> None:
        self.mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
        deviation = features.std(axis=0, dtype=np.float64).astype(features.dtype)
        self.scale = np.where(deviation > 1e-6 * np.abs(self.mean) + 1e-12, deviation, np.inf)  # constants: to zero
        standardised = (features - self.mean) / self.scale
        items, dim = features.shape
        gram = standardised @ standardised.T if items < dim else standardised.T @ standardised
        values, vectors = eigh(gram.astype(np.float64))
        kept = values > _SMALLEST * max(values[-1], 1e-12)
        axes = vectors[:, kept].astype(features.dtype)
        if items < dim:
            axes = standardised.T @ (axes / np.sqrt(values[kept]).astype(features.dtype))
        self.axes = axes
        """``(dim, rank)``, orthonormal columns."""
        self.coordinates = standardised @ axes
        """``(items, rank)``."""

    def probe(self, weight: Floats, bias: Floats) -> LinearProbe:
        """Return a probe on the features from one on the coordinates."""
        back = (self.axes @ weight) / self.scale[:, None]
        return LinearProbe(back, bias - self.mean @ back)


def _minimise(
    coordinates: Floats,
    targets: Floats,
    penalty: float,
    exclusive: bool,
    tolerance: float,
    start: tuple[Floats, Floats] | None,
) -> tuple[Floats, Floats]:
    """Return weights ``(rank, classes)`` and biases by L-BFGS.

    Each unknown is scaled by the root of the curvature that it has where all weights are zero: variances of axes and
    frequencies of classes differ by orders of magnitude, and few steps suffice without that difference.
    """
    rank, classes = coordinates.shape[1], targets.shape[1]
    truth = targets.astype(coordinates.dtype)
    share = truth.mean(axis=0, dtype=np.float64).clip(0.5 / len(truth), 1 - 0.5 / len(truth))
    variance = np.append(np.square(coordinates).mean(axis=0, dtype=np.float64), 1.0)
    penalties = np.append(np.full(rank, penalty), 0.0)[:, None]  # the bias is free
    scale = (1 / np.sqrt(np.outer(variance, share * (1 - share)) + penalties)).astype(coordinates.dtype)

    def loss(unknown: Floats) -> tuple[float, Floats]:
        values = scale * unknown.reshape(rank + 1, classes).astype(coordinates.dtype)
        value, gradient = _cross_entropy(coordinates @ values[:-1] + values[-1], truth, exclusive)
        slope = np.vstack([coordinates.T @ gradient + penalty * values[:-1], gradient.sum(axis=0)]) * scale
        return value + penalty / 2 * float(np.square(values[:-1]).sum()), slope.ravel().astype(np.float64)

    bias = np.log(share) if exclusive else np.log(share / (1 - share))
    first = np.vstack(start if start is not None else [np.zeros((rank, classes)), bias]) / scale
    options = {"maxiter": _ITERATIONS, "gtol": tolerance, "ftol": tolerance / 1000}
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(rank + 1, classes)
    values = scale * found.astype(coordinates.dtype)
    return values[:-1], values[-1]


def _cross_entropy(logits: Floats, targets: Floats, exclusive: bool) -> tuple[float, Floats]:
    """Mean over items, and its gradient by the logits."""
    if exclusive:
        log_shares = log_softmax(logits, axis=1)
        value = -(targets * log_shares).sum(dtype=np.float64) / len(logits)
        gradient = np.exp(log_shares) - targets
    else:
        small = np.exp(-np.abs(logits))  # the stable forms of softplus and sigmoid share it
        softplus = np.maximum(logits, 0) + np.log(1 + small)
        value = (softplus - targets * logits).sum(dtype=np.float64) / len(logits)
        gradient = np.where(logits >= 0, 1, small) / (1 + small) - targets
    return float(value), gradient / len(logits)
