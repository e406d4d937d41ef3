"""Training of Jukebox's priors."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sonido_bench.errors import DataError
from sonido_bench.foundation.jukebox.labels import SongLabels, label_vector
from sonido_bench.foundation.jukebox.prior import Prior, PriorLoss
from sonido_bench.foundation.jukebox.prior_config import PriorConfig
from sonido_bench.foundation.token_phase import TokenPhase, TokenTraining
from sonido_bench.foundation.tokens import PLACE

__all__ = ["PriorStage", "window_labels"]


class PriorStage(TokenPhase):
    """A prior in training; batches map levels to codes ``(batch, codes, 1)``, and ``place`` to ``(batch, 2)``.

    The place is where a window starts and how long its recording is, in codes of the top level, as ``TokenWindows``
    gives it. ``val/bits_per_code`` is what a held-out code costs.

    Args:
        model: The prior.
        config: How to train it.
        level: Key of its codes.
        above: Key of those of the level above; ``None`` for the top prior.
        top_hop: Samples of a code of the top level.
        seed: Of the noise.
    """

    model: Prior

    def __init__(
        self, model: Prior, config: TokenTraining, level: str, above: str | None, top_hop: int, seed: int = 0
    ) -> None:
        super().__init__(model, config, seed)
        self.level, self.above, self.top_hop = level, above, top_hop

    def _cost(self, batch: Mapping[str, Tensor], moment: int) -> PriorLoss:
        codes = batch[self.level].squeeze(2)
        labels = None
        if self.model.labels is not None:
            labels = window_labels(self.model.config, batch[PLACE] * self.top_hop).to(codes.device)
        cost = self.model.loss(codes, labels, None if self.above is None else batch[self.above].squeeze(2))
        return replace(cost, metrics={"bits_per_code": cost.bits_per_code})  # there are no lyrics


def window_labels(config: PriorConfig, places: Tensor) -> Tensor:
    """Return what a prior is told about windows of recordings of which nothing but the time is known.

    Args:
        config: Of the prior.
        places: Where each window starts and how long its recording is, in samples, int64 ``(batch, 2)``. A recording
            that is shorter than any song that the prior knows is said to be as long as the shortest of these, as it is
            in sampling.

    Returns:
        int64 ``(batch, label_length)``.

    Raises:
        DataError: If a recording is longer than any song that the prior knows.
    """
    shortest = 0.0 if config.labels is None else config.labels.min_seconds * config.sample_rate
    multiple = config.hop_length
    least = -int(-shortest // multiple) * multiple  # in whole codes, as in sampling
    vectors = []
    for start, length in places.tolist():
        try:
            vectors.append(label_vector(config, SongLabels(max(length, least)), start))
        except ValueError as error:
            raise DataError(f"a recording of {length / config.sample_rate:.1f} s does not fit: {error}") from error
    return torch.stack(vectors)
