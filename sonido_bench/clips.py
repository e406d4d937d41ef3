"""A clip: the unit that is featured, cached, predicted and scored."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Clip"]


@dataclass(frozen=True)
class Clip:
    """A stretch of one audio file.

    Attributes:
        name: Unique in its data set, and stable: results are paired by it.
        path: The audio file.
        sha256: Checksum of the file's bytes, from the data set's manifest.
        start: Where the clip starts in the file, in seconds.
        seconds: Its length in seconds.
    """

    name: str
    path: Path
    sha256: str
    start: float
    seconds: float
