"""What a score is: its name, its direction and how a test set's score follows from its items."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Aggregation", "Metric"]

Aggregation = Literal["mean", "average_precision", "roc_auc", "r2"]


@dataclass(frozen=True)
class Metric:
    """One score of a task.

    Attributes:
        name: As on the leaderboard, ``note_f1``.
        aggregation: ``mean`` averages a score that each item has; the others are corpus-level, recomputed from all
            items' targets and predictions (macro average over classes or outputs).
        higher_is_better: Its direction.
    """

    name: str
    aggregation: Aggregation = "mean"
    higher_is_better: bool = True
