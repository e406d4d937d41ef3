"""Training of the transformers over tokens."""

from collections.abc import Mapping

from torch import Tensor

from sonido_bench.foundation.sonido.prior import Prior, PriorLoss
from sonido_bench.foundation.token_phase import TokenPhase, TokenTraining

__all__ = ["StageTwo"]


class StageTwo(TokenPhase):
    """A transformer in training; batches map levels to tokens ``(batch, frames, codebooks)``.

    A batch may have audio embeddings too: ``condition``, ``(batch, condition_dim)``.

    Args:
        model: The transformer.
        config: How to train it.
        seed: Of the noise.
    """

    model: Prior

    def __init__(self, model: Prior, config: TokenTraining, seed: int = 0) -> None:
        super().__init__(model, config, seed)

    def _cost(self, batch: Mapping[str, Tensor], moment: int = 0) -> PriorLoss:
        level, above = self.model.config.level, self.model.config.above
        tokens, upper = batch[level].long(), None if above is None else batch[above].long()
        condition = batch.get("condition")
        if condition is None:
            return self.model.loss(tokens, upper)
        return self.model.loss(tokens, upper, condition, self.generator(moment))
