"""The unit of the benchmark: task model x data set x arm x training fraction x seed."""

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["BASELINE", "Experiment"]

BASELINE = "none"
"""The arm without features."""


@dataclass(frozen=True, order=True)
class Experiment:
    """One training run. Two experiments that differ in ``arm`` alone are a pair.

    Attributes:
        task: What is learned: ``instruments``, ``key``, ``transcription``.
        network: The task model's name.
        dataset: The data set's name.
        arm: ``none``, an extractor, or one of its controls (``@random``, ``@tokenizer``).
        fraction: Share of the training clips, in (0, 1].
        seed: Seeds the initial weights, the data order and the choice of the training clips.
    """

    task: str
    network: str
    dataset: str
    arm: str
    fraction: float
    seed: int

    @property
    def slug(self) -> str:
        """A file name that is unique in a benchmark, for example ``key-tagger-rendered-none-0.1-3``."""
        parts = (self.task, self.network, self.dataset, self.arm, f"{self.fraction:g}", str(self.seed))
        return "-".join(re.sub(r"[^\w.@+]+", "_", part) for part in parts)

    @property
    def baseline(self) -> "Experiment":
        """The other half of the pair: the same experiment without features."""
        return replace(self, arm=BASELINE)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-able dictionary."""
        return asdict(self)
