"""What networks that hear audio have in common in training: segments, and a start from the first of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.phase import Phase, PhaseConfig

__all__ = ["AudioTraining", "DataInitialised", "DataInitialisedPhase", "DataInitialisedTraining"]


@dataclass(frozen=True)
class AudioTraining(PhaseConfig):
    """How a network that hears audio is trained.

    Attributes:
        segment_seconds: Length of an item, rounded to whole frames.
        crops: Segments of a recording that is read; divides ``batch_size``.
    """

    segment_seconds: float = 1.5
    crops: int = 2

    def __post_init__(self) -> None:
        """Refuse segments of no length, and none at all."""
        super().__post_init__()
        if self.segment_seconds <= 0 or self.crops < 1:
            raise ConfigError(f"segment_seconds and crops must be above 0, got {self.segment_seconds} and {self.crops}")

    def samples(self, sample_rate: int, hop: int) -> int:
        """Return the length of an item in samples.

        Args:
            sample_rate: In Hz.
            hop: Samples of a frame, of the coarsest level.
        """
        return max(1, round(self.segment_seconds * sample_rate / hop)) * hop


@dataclass(frozen=True)
class DataInitialisedTraining(AudioTraining):
    """How a network is trained that starts from data.

    Attributes:
        initial_batches: That its statistics and codes start from.
    """

    initial_batches: int = 16

    def __post_init__(self) -> None:
        """Refuse to start from nothing."""
        super().__post_init__()
        if self.initial_batches < 1:
            raise ConfigError(f"initial_batches must be above 0, got {self.initial_batches}")


class DataInitialised(Protocol):
    """A network that starts from data."""

    def initialise(self, batches: Sequence[Tensor], /) -> None:
        """Put statistics and codes where the data are: batches ``(batch, samples)``."""


class DataInitialisedPhase(Phase):
    """A network in training that starts from data; that it has is in the checkpoint, so that it happens once.

    Args:
        model: A ``DataInitialised`` network.
        config: How to train it.
        seed: Of the start, and of the noise.
    """

    initialised: Tensor

    def __init__(self, model: nn.Module, config: DataInitialisedTraining, seed: int) -> None:
        super().__init__(model, config, seed)
        self.register_buffer("initialised", torch.tensor(False))

    def initialise(self, batches: Sequence[Tensor]) -> None:
        """Start statistics and codes from the first training batches; once, before training."""
        torch.manual_seed(self.seed)
        cast(DataInitialised, self.model).initialise(batches)
        self.initialised.fill_(True)

    def on_train_start(self) -> None:
        """Refuse to train from codes that no data have been seen for.

        Raises:
            RuntimeError: If neither ``initialise`` was called nor a checkpoint loaded.
        """
        if not self.initialised:
            raise RuntimeError("call initialise with some batches before training")
