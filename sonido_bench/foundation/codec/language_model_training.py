"""Training of the language model over codes."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sonido_bench.foundation.codec.language_model import CodeCrossEntropy, LanguageModel
from sonido_bench.foundation.phase import Phase, PhaseConfig

__all__ = ["LanguageModelPhase", "LanguageModelTraining"]


@dataclass(frozen=True)
class LanguageModelTraining(PhaseConfig):
    """How the language model is trained.

    Attributes:
        validation_windows: Of held-out codes, each as long as the context; always the same.
    """

    validation_windows: int = 128


class LanguageModelPhase(Phase):
    """A language model in training; batches map ``codes`` to ``(batch, frames, codebooks)``.

    A batch may have conditions too: ``condition``, as in ``LanguageModel.forward``.

    Args:
        model: The language model.
        config: How to train it.
        seed: Of the noise.
    """

    model: LanguageModel

    def __init__(self, model: LanguageModel, config: PhaseConfig, seed: int = 0) -> None:
        super().__init__(model, config, seed)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        cost = self._cost(batch, self.global_step)
        self._log("train", _metrics(cost), len(batch["codes"]))
        return self._checked(cost.loss)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log what a batch costs."""
        self._log("val", _metrics(self._cost(batch, -1 - batch_idx)), len(batch["codes"]))

    def _cost(self, batch: Mapping[str, Tensor], moment: int) -> CodeCrossEntropy:
        return self.model.cross_entropy(batch["codes"], batch.get("condition"), self.generator(moment))


def _metrics(cost: CodeCrossEntropy) -> dict[str, Tensor]:
    by_codebook = {f"nats_codebook_{index}": nats for index, nats in enumerate(cost.per_codebook, start=1)}
    return {"loss": cost.loss, "bits_per_frame": cost.bits_per_frame, **by_codebook}
