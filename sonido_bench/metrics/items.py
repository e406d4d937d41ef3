"""What a task leaves behind of the test set: enough to recompute every score."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

__all__ = ["TestItems"]


@dataclass
class TestItems:
    """The test set, item by item, in the order in which it was read.

    Attributes:
        names: Names of the clips.
        scores: For every metric with aggregation ``mean``, one score per clip.
        targets: For corpus-level metrics: the target of each clip, else empty.
        predictions: The matching predictions, else empty.
        examples: The first few clips, ``{"reference": ..., "estimate": ...}``: lists of labels or numbers (tagging),
            or lists of ``[onset, offset, pitch, velocity]`` (transcription).
    """

    __test__: ClassVar[bool] = False  # its name would make pytest collect it

    names: list[str]
    scores: dict[str, list[float]] = field(default_factory=dict)
    targets: list[list[float]] = field(default_factory=list)
    predictions: list[list[float]] = field(default_factory=list)
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
