"""What all networks over tokens have in common in training."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sonido_bench.foundation.phase import Phase, PhaseConfig

__all__ = ["TokenCost", "TokenPhase", "TokenTraining"]


@dataclass(frozen=True)
class TokenTraining(PhaseConfig):
    """How a network over tokens is trained.

    Attributes:
        validation_windows: Of held-out tokens, each as long as the context; always the same.
    """

    validation_windows: int = 128


class TokenCost(Protocol):
    """What a network pays for a batch."""

    @property
    def loss(self) -> Tensor:
        """To be minimised."""

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """To be logged beside the loss, by name."""


class TokenPhase(Phase, ABC):
    """A network over tokens in training; batches map names to tensors ``(batch, ...)``.

    A subclass writes ``_cost``.
    """

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        cost = self._cost(batch, self.global_step)
        self._log_cost("train", cost, batch)
        return self._checked(cost.loss)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log what a batch costs."""
        self._log_cost("val", self._cost(batch, -1 - batch_idx), batch)

    @abstractmethod
    def _cost(self, batch: Mapping[str, Tensor], moment: int) -> TokenCost:
        """Return what a batch costs; noise that is not torch's own is that of ``generator(moment)``."""

    def _log_cost(self, split: str, cost: TokenCost, batch: Mapping[str, Tensor]) -> None:
        self._log(split, {"loss": cost.loss, **cost.metrics}, len(next(iter(batch.values()))))
