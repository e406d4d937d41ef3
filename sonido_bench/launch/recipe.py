"""What a family of models brings to pre-training; running, stopping and resuming are the same for all."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sonido_bench.foundation.checkpoint import CheckpointModel
from sonido_bench.launch.phase import PhaseRun
from sonido_bench.launch.pretraining_config import PretrainingConfig
from sonido_bench.launch.token_extraction import Tokenizer

if TYPE_CHECKING:
    from sonido_bench.launch.phases import PhaseJob

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe(ABC):
    """A first phase that trains a tokenizer, and later ones that need its tokens and nothing of each other. Picklable.

    Attributes:
        config: The pre-training.
        first: Name of the first phase, which is its folder too.
    """

    config: PretrainingConfig
    first: ClassVar[str]

    @property
    @abstractmethod
    def later(self) -> Sequence[str]:
        """Names of the later phases."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what would only fail in a later phase.

        Raises:
            ConfigError: One line.
        """

    @abstractmethod
    def tokenizer(self, folder: Path) -> Tokenizer:
        """Return what makes tokens, once the first phase is finished.

        Args:
            folder: Of the pre-training.
        """

    @abstractmethod
    def phase(self, job: "PhaseJob") -> PhaseRun:
        """Build a phase. Torch's generator is seeded; networks may be drawn from it."""

    @abstractmethod
    def assembled(self, folder: Path) -> CheckpointModel:
        """Put the trained parts together.

        Args:
            folder: Of the pre-training, all of whose phases are finished.
        """
