"""Musical keys: their names, and the score that forgives related keys."""

import numpy as np
from mir_eval.key import weighted_score
from numpy.typing import ArrayLike, NDArray

__all__ = ["KEYS", "key_scores"]

_TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in _TONICS)
"""The 24 classes in their order."""

_WEIGHTS = np.array([[weighted_score(reference, estimate) for estimate in KEYS] for reference in KEYS])


def key_scores(references: ArrayLike, estimates: ArrayLike) -> NDArray[np.float64]:
    """Weighted score of each item, as ``mir_eval.key.weighted_score`` (MIREX).

    Args:
        references: Classes, indices into ``KEYS``, ``(items,)``.
        estimates: Classes of the same shape.

    Returns:
        Per item 1 for the key, 0.5 for its fifth, 0.3 for its relative, 0.2 for its parallel, else 0.
    """
    scores: NDArray[np.float64] = _WEIGHTS[np.asarray(references), np.asarray(estimates)]
    return scores
