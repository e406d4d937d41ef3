"""What is known of a data set's files, kept beside them so that they are examined once."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonido_bench.datamodules.stems.audio_file import StemFile, examine
from sonido_bench.errors import DataError
from sonido_bench.files import write_json

__all__ = ["IndexJob", "TrackFiles", "load_row", "unreadable"]


@dataclass(frozen=True)
class TrackFiles:
    """The files of a track, not examined yet; they lie in one folder.

    Attributes:
        name: Of the track, unique in the data set.
        stems: File of each stem that there is.
        mixture: The mix, or ``None``.
        downmix: Mono downmix of the stems, or ``None``.
    """

    name: str
    stems: Mapping[str, Path]
    mixture: Path | None = None
    downmix: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [path for path in (*self.stems.values(), self.mixture, self.downmix) if path is not None]


@dataclass(frozen=True)
class IndexJob:
    """Examine the files of a track and write down what they are; can be pickled and called in any process.

    Attributes:
        track: Its files.
        row: Where it is written.
    """

    track: TrackFiles
    row: Path

    @property
    def label(self) -> str:
        """What a progress bar shows."""
        return self.track.name

    def __call__(self) -> None:
        """Examine the files.

        Raises:
            DataError: If one of them is at fault, or the row cannot be written.
        """
        entries = {}
        for path in self.track.paths:
            state = _state(path)
            entries[path.name] = {**asdict(examine(path)), "path": path.name, **state}
        try:
            write_json(self.row, entries)
        except OSError as error:
            raise DataError(f"cannot write {self.row}: {error}; set `index` to a folder that can be written") from error


def load_row(track: TrackFiles, row: Path) -> dict[Path, StemFile] | None:
    """Return the files of a track as they were examined; ``None`` if they were not, or have changed since."""
    try:
        entries: dict[str, dict[str, Any]] = json.loads(row.read_text(encoding="utf-8"))
        files = {}
        for path in track.paths:
            entry = dict(entries[path.name])
            if {name: entry.pop(name) for name in ("size", "mtime_ns")} != _state(path):
                return None
            files[path] = StemFile(**{**entry, "path": path})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files


def unreadable(tracks: Iterable[TrackFiles]) -> list[str]:
    """Examine all files again and return one line for each that is at fault."""
    problems = []
    for path in (path for track in tracks for path in track.paths):
        try:
            examine(path)
        except DataError as error:
            problems.append(str(error))
    return problems


def _state(path: Path) -> dict[str, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: expected an audio file, found: {error}; fetch it again") from error
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
