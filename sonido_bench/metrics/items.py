"""What a task leaves behind of the test set: enough to recompute every score, and some of it to hear."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Audio", "Recording", "TestItems"]

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """A few seconds of a test track to hear, each ``(channels, samples)``.

    Attributes:
        input: What the network was given: the mixture, or in mixing the sum of the stems.
        references: What was wanted, by name: the stems, or the ``mix``.
        estimates: What the network gave, under the same names.
        sample_rate: In Hz.
    """

    input: Audio
    references: dict[str, Audio]
    estimates: dict[str, Audio]
    sample_rate: int


@dataclass
class TestItems:
    """The test set, item by item, in the order in which it was read.

    Attributes:
        names: Names of the items: of the clips, or in separation and mixing of the tracks.
        scores: For every metric with aggregation ``mean``, one score per item.
        targets: For corpus-level metrics: the target of each item, else empty.
        predictions: The matching predictions, else empty.
        examples: The first few items, ``{"reference": ..., "estimate": ...}``: lists of labels or numbers (tagging),
            or lists of ``[onset, offset, pitch, velocity]`` (transcription).
        recordings: Of tasks that give audio, the first few items.
    """

    __test__: ClassVar[bool] = False  # its name would make pytest collect it

    names: list[str]
    scores: dict[str, list[float]] = field(default_factory=dict)
    targets: list[list[float]] = field(default_factory=list)
    predictions: list[list[float]] = field(default_factory=list)
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
    recordings: dict[str, Recording] = field(default_factory=dict)
