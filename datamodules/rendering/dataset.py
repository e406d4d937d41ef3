"""A rendered data set: its configuration, its folder, its manifest and its checks.

<root>/{train,validation,test,pretrain}/<track>.flac and .midi       mix and notes
<root>/maestro-rendered.csv                                          columns of MAESTRO v3
<root>/musdb18hq/{train,test}/Rendered - <track>/{mixture,vocals,drums,bass,other}.wav     with stems
<root>/dry/<track>/<role>.wav                                        with stems: before the effects
<root>/rows/<track>.json, manifest.jsonl, card.json                  what is known about all that
"""

import csv
import io
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sonido_bench.datamodules.rendering.programs import SPLITS, Split
from sonido_bench.datamodules.rendering.synthesis import SAMPLE_RATE, soundfont_sha256
from sonido_bench.datamodules.rendering.track import (
    MAX_DATA_SEED,
    MAX_TRACKS,
    Track,
    TrackJob,
    load_track,
    render_job,
    track_seed,
)
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_file, sha256_json, write_json, write_text

__all__ = [
    "VERSION",
    "Manifest",
    "RenderedConfig",
    "finish",
    "load_manifest",
    "prepare",
    "tracks_to_render",
    "verify",
    "version",
]

VERSION = "1"
"""Of the generator; raised whenever the same seed gives other music or other sound."""

_CARD = "card.json"
_MANIFEST = "manifest.jsonl"
_MAESTRO_CSV = "maestro-rendered.csv"
_MAESTRO_COLUMNS = (
    "canonical_composer",
    "canonical_title",
    "split",
    "year",
    "midi_filename",
    "audio_filename",
    "duration",
)
_YEAR = 2026  # of the generator; MAESTRO's column wants one


@dataclass(frozen=True)
class RenderedConfig:
    """What a data set is made of.

    Attributes:
        seed: Of the data set.
        seconds: Length of every track, at least 1.
        train: Number of tracks of the training split.
        validation: Of the validation split.
        test: Of the test split.
        pretrain: Of the pre-training split.
        stems: Whether to write dry stems and MUSDB18-HQ folders too.
        soundfont: Path of a General MIDI soundfont; ``None`` for TimGM6mb.sf2 from pretty_midi's wheel.
    """

    seed: int = 0
    seconds: float = 6.0
    train: int = 600
    validation: int = 150
    test: int = 500
    pretrain: int = 0
    stems: bool = False
    soundfont: str | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 <= self.seed < MAX_DATA_SEED:
            raise ConfigError(f"data seed must be in 0..{MAX_DATA_SEED - 1}, got {self.seed}")
        if not 1 <= self.seconds <= 3600:
            raise ConfigError(f"seconds must be in 1..3600, got {self.seconds}")
        for split in SPLITS:
            if not 0 <= self.tracks(split) < MAX_TRACKS:
                raise ConfigError(f"{split} must have 0..{MAX_TRACKS - 1} tracks, got {self.tracks(split)}")

    def tracks(self, split: Split) -> int:
        """Return the number of tracks of a split."""
        return {"train": self.train, "validation": self.validation, "test": self.test, "pretrain": self.pretrain}[split]


@dataclass(frozen=True)
class Manifest:
    """A finished data set: its folder, its card and its tracks in the order of splits and numbers."""

    root: Path
    card: dict[str, Any]
    tracks: tuple[Track, ...]

    def split(self, split: Split) -> list[Track]:
        """Return the tracks of one split."""
        return [track for track in self.tracks if track.split == split]


def version(config: RenderedConfig) -> str:
    """Return the hash of all that decides the data: generator, configuration and the soundfont's bytes.

    Raises:
        DataError: If there is no soundfont.
    """
    values = asdict(config) | {"soundfont": soundfont_sha256(config.soundfont), "generator": VERSION}
    return sha256_json(values)


def tracks_to_render(root: Path, config: RenderedConfig) -> list[TrackJob]:
    """Return the jobs that are not done yet, for any pool of processes to run with ``render_job``."""
    return [job for job in _jobs(root, config) if load_track(root, job.name) is None]


def finish(root: Path, config: RenderedConfig) -> Manifest:
    """Write manifest, CSV and card of a data set whose tracks are all rendered.

    Raises:
        DataError: If a track is missing.
    """
    tracks = []
    for job in _jobs(root, config):
        track = load_track(root, job.name)
        if track is None:
            raise DataError(f"track {job.name} is missing in {root}; prepare the data again")
        tracks.append(track)
    rows = "".join(json.dumps(asdict(track), allow_nan=False) + "\n" for track in tracks)
    write_text(root / _MANIFEST, rows)
    write_text(root / _MAESTRO_CSV, _maestro_csv(tracks))
    card = _card(config) | {"manifest_sha256": sha256_file(root / _MANIFEST)}
    write_json(root / _CARD, card, indent=2)
    return Manifest(root, card, tuple(tracks))


def prepare(
    root: Path,
    config: RenderedConfig,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Render what is missing and finish the data set; after an interruption the same call goes on.

    Args:
        root: Folder of this version of the data set.
        config: What to make.
        workers: Processes; 1 renders in this one.
        progress: Called with tracks done and tracks to do, after each.

    Raises:
        DataError: If the synthesiser or the soundfont is missing, or the disk is full.
    """
    jobs = tracks_to_render(root, config)
    if workers <= 1:
        for done, job in enumerate(jobs, start=1):
            render_job(job)
            if progress:
                progress(done, len(jobs))
    elif jobs:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(render_job, job) for job in jobs]
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    if progress:
                        progress(done, len(jobs))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finished = not jobs and (root / _CARD).is_file()
    return load_manifest(root) if finished else finish(root, config)


def load_manifest(root: Path) -> Manifest:
    """Read a finished data set's manifest.

    Raises:
        DataError: If there is none, or it is not the one that the card names.
    """
    try:
        card = json.loads((root / _CARD).read_text(encoding="utf-8"))
        found = sha256_file(root / _MANIFEST)
        if found != card.get("manifest_sha256"):
            raise DataError(
                f"{root / _MANIFEST} is not the manifest of {_CARD}; delete {_CARD} and prepare the data again"
            )
        return Manifest(root, card, _read_tracks(root / _MANIFEST, found))
    except (OSError, ValueError) as error:
        raise DataError(f"no finished rendered data in {root}: {error}; prepare it first") from error


@lru_cache(maxsize=4)  # a benchmark's process opens the same data for every run
def _read_tracks(path: Path, sha256: str) -> tuple[Track, ...]:
    """Read the rows of a manifest whose bytes have this hash."""
    return tuple(Track(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


def verify(root: Path) -> list[str]:
    """Check every file of a data set against its checksum.

    Returns:
        One line for each file that is missing or damaged; empty if all is well. Deleting a damaged file and
        preparing again renders it anew.

    Raises:
        DataError: If there is no manifest.
    """
    problems = []
    for track in load_manifest(root).tracks:
        for file, expected in track.files.items():
            path = root / file
            if not path.is_file():
                problems.append(f"{file}: missing")
            elif sha256_file(path) != expected:
                problems.append(f"{file}: damaged (its checksum differs)")
    return problems


def _jobs(root: Path, config: RenderedConfig) -> list[TrackJob]:
    return [
        TrackJob(
            root=root,
            name=f"{split}-{index:05d}",
            split=split,
            seed=track_seed(config.seed, split, index),
            seconds=config.seconds,
            stems=config.stems,
            soundfont=config.soundfont,
        )
        for split in SPLITS
        for index in range(config.tracks(split))
    ]


def _card(config: RenderedConfig) -> dict[str, Any]:
    values = asdict(config)
    del values["soundfont"]  # a path of one machine; its bytes are named instead
    return {
        "name": "rendered",
        "version": version(config),
        "generator": VERSION,
        "config": values,
        "soundfont_sha256": soundfont_sha256(config.soundfont),
        "sample_rate": SAMPLE_RATE,
        "licence": "The notes are made by a program. The sound is made of samples of the soundfont, by default "
        "TimGM6mb.sf2 (GPL-2.0), which comes with pretty_midi and is not part of the data.",
    }


def _maestro_csv(tracks: list[Track]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_MAESTRO_COLUMNS)
    for track in tracks:
        if track.split != "pretrain":  # MAESTRO knows three splits
            title = f"{track.name} in {track.key}"
            writer.writerow(["sonido_bench", title, track.split, _YEAR, track.midi, track.audio, track.seconds])
    return text.getvalue()
