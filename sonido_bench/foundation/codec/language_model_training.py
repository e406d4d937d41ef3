"""Training of the language model over codes."""

from collections.abc import Mapping

from torch import Tensor

from sonido_bench.foundation.codec.language_model import CodeCrossEntropy, LanguageModel
from sonido_bench.foundation.token_phase import TokenPhase, TokenTraining

__all__ = ["LanguageModelPhase"]


class LanguageModelPhase(TokenPhase):
    """A language model in training; batches map ``codes`` to ``(batch, frames, codebooks)``.

    A batch may have conditions too: ``condition``, as in ``LanguageModel.forward``.

    Args:
        model: The language model.
        config: How to train it.
        seed: Of the noise.
    """

    model: LanguageModel

    def __init__(self, model: LanguageModel, config: TokenTraining, seed: int = 0) -> None:
        super().__init__(model, config, seed)

    def _cost(self, batch: Mapping[str, Tensor], moment: int) -> CodeCrossEntropy:
        return self.model.cross_entropy(batch["codes"], batch.get("condition"), self.generator(moment))
