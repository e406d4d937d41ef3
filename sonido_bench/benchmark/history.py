"""The learning curve of a run."""

import math
from typing import Any

import lightning.pytorch as pl

from sonido_bench.benchmark.tracking import Tracker

__all__ = ["History"]


class History(pl.Callback):
    """Keeps every validation's metrics and passes them on to a tracker as they come.

    Attributes:
        entries: ``{"step": 20, "val/loss": ..., "val/map": ...}``, one per validation.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.entries: list[dict[str, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Record the metrics that the task has logged; values that are not finite cannot be JSON and are left out."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.entries.append({"step": trainer.global_step, **finite})
        self.tracker.log(trainer.global_step, finite)
