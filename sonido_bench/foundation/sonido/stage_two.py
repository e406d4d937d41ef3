"""Training of the transformers over tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sonido_bench.foundation.phase import Phase, PhaseConfig
from sonido_bench.foundation.sonido.prior import Prior, PriorLoss

__all__ = ["StageTwo", "StageTwoTraining"]


@dataclass(frozen=True)
class StageTwoTraining(PhaseConfig):
    """How the transformer of one level is trained.

    Attributes:
        validation_windows: Of held-out tokens, each as long as the context; always the same.
    """

    validation_windows: int = 128


class StageTwo(Phase):
    """A transformer in training; batches map levels to tokens ``(batch, frames, codebooks)``.

    A batch may have audio embeddings too: ``condition``, ``(batch, condition_dim)``.

    Args:
        model: The transformer.
        config: How to train it.
        seed: Of the noise.
    """

    model: Prior

    def __init__(self, model: Prior, config: PhaseConfig, seed: int = 0) -> None:
        super().__init__(model, config, seed)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        cost = self._cost(batch, self.global_step)
        self._log("train", {"loss": cost.loss, **cost.metrics}, self._rows(batch))
        return self._checked(cost.loss)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log what a batch costs."""
        cost = self._cost(batch, -1 - batch_idx)
        self._log("val", {"loss": cost.loss, **cost.metrics}, self._rows(batch))

    def _cost(self, batch: Mapping[str, Tensor], moment: int = 0) -> PriorLoss:
        level, above = self.model.config.level, self.model.config.above
        tokens, upper = batch[level].long(), None if above is None else batch[above].long()
        condition = batch.get("condition")
        if condition is None:
            return self.model.loss(tokens, upper)
        return self.model.loss(tokens, upper, condition, self.generator(moment))

    def _rows(self, batch: Mapping[str, Tensor]) -> int:
        return len(batch[self.model.config.level])
