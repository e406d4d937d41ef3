"""Frechet distance between two sets of embeddings, each read as a Gaussian (Dowson & Landau 1982; Kilgour et al. 2019).

The distance depends on the embedding, on how many items there are (few make it larger) and on the numerical method:
state all three beside a figure. Everything is float64.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["GaussianStatistics", "frechet_distance", "frechet_distance_of_embeddings"]

Array = NDArray[np.float64]


class GaussianStatistics:
    """Mean and covariance of embeddings that arrive in parts; the parts' sizes and order do not matter.

    Merged as in Chan et al. (1979), which loses no digits where the mean is large beside the spread.

    Args:
        dim: Width of an embedding.

    Attributes:
        count: Items seen so far.
        mean: ``(dim,)``.
    """

    def __init__(self, dim: int) -> None:
        self.dim, self.count = dim, 0
        self.mean: Array = np.zeros(dim)
        self._scatter: Array = np.zeros((dim, dim))

    def update(self, embeddings: ArrayLike) -> "GaussianStatistics":
        """Add embeddings ``(items, dim)``, and return itself.

        Raises:
            ValueError: If they have another shape or are not finite.
        """
        items = np.asarray(embeddings, dtype=np.float64)
        if items.ndim != 2 or items.shape[1] != self.dim:
            raise ValueError(f"expected embeddings (items, {self.dim}), got {items.shape}")
        if not np.isfinite(items).all():
            raise ValueError("embeddings are not finite; look at the extractor or the audio it was given")
        if len(items):
            mean = items.mean(axis=0)
            self._add(len(items), mean, (items - mean).T @ (items - mean))
        return self

    def merge(self, other: "GaussianStatistics") -> "GaussianStatistics":
        """Add what another has seen, as of another process, and return itself.

        Raises:
            ValueError: If its embeddings have another width.
        """
        if other.dim != self.dim:
            raise ValueError(f"expected statistics of width {self.dim}, got {other.dim}")
        if other.count:
            self._add(other.count, other.mean, other._scatter)
        return self

    @property
    def covariance(self) -> Array:
        """``(dim, dim)``, divided by ``count - 1``.

        Raises:
            ValueError: If there are fewer than two items.
        """
        if self.count < 2:
            raise ValueError(f"expected at least 2 embeddings for a covariance, got {self.count}")
        return self._scatter / (self.count - 1)

    def _add(self, count: int, mean: Array, scatter: Array) -> None:
        total = self.count + count
        step = mean - self.mean
        self._scatter = self._scatter + scatter + np.outer(step, step) * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics, allow_few_items: bool = False) -> float:
    """Return ``|m1 - m2|^2 + tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2)``, the squared 2-Wasserstein distance.

    The last trace is a sum of square roots of eigenvalues of a symmetric matrix, found by ``eigvalsh``: never complex,
    and defined for singular covariances, unlike the matrix square root of ``A B`` that others take.

    Args:
        first: One set's statistics.
        second: The other's.
        allow_few_items: Accept ``dim`` items or fewer in a set. The covariance then lacks directions and the distance
            is far too large, by an amount that depends on the number of items: compare only sets of one size.

    Returns:
        At least 0.

    Raises:
        ValueError: If the widths differ, a set has fewer than two items, or too few for its width.
    """
    if first.dim != second.dim:
        raise ValueError(f"expected embeddings of one width, got {first.dim} and {second.dim}")
    fewest = min(first.count, second.count)
    if fewest <= first.dim and not allow_few_items:
        raise ValueError(
            f"expected more than {first.dim} items for embeddings of that width, got {fewest}; give it more, a "
            "narrower embedding, or allow_few_items=True for figures that compare with those of equally many items only"
        )
    a, b = first.covariance, second.covariance
    root = _square_root(a)
    product: Array = np.linalg.eigvalsh(root @ b @ root).astype(np.float64)
    eigenvalues = _eigenvalues_above_noise(product)
    means = np.square(first.mean - second.mean).sum()
    return max(0.0, float(means + np.trace(a) + np.trace(b) - 2 * np.sqrt(eigenvalues).sum()))


def frechet_distance_of_embeddings(reference: ArrayLike, estimate: ArrayLike, allow_few_items: bool = False) -> float:
    """Return the distance between two sets of embeddings, ``(items, dim)`` each; see ``frechet_distance``.

    Raises:
        ValueError: If the sets do not fit together, are not finite, or are too few.
    """
    sets = [np.asarray(embeddings, dtype=np.float64) for embeddings in (reference, estimate)]
    if any(items.ndim != 2 for items in sets):
        raise ValueError(f"expected embeddings (items, dim), got {sets[0].shape} and {sets[1].shape}")
    first, second = (GaussianStatistics(items.shape[1]).update(items) for items in sets)
    return frechet_distance(first, second, allow_few_items)


def _square_root(matrix: Array) -> Array:
    """Return the symmetric square root of a covariance."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(_eigenvalues_above_noise(eigenvalues))) @ vectors.T
    return root


def _eigenvalues_above_noise(eigenvalues: Array) -> Array:
    """Set to 0 what rounding made of a 0: its square root would be far from 0."""
    noise = len(eigenvalues) * np.finfo(np.float64).eps * max(float(eigenvalues[-1]), 0.0)
    return np.where(eigenvalues > noise, eigenvalues, 0.0)
