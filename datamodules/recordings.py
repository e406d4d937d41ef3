"""Recordings to train on: rendered music, made on the way, or any folder of audio files."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import soundfile
from torch import Tensor

from sonido_bench.audio import load_clip, to_mono
from sonido_bench.clips import Clip
from sonido_bench.datamodules.augmentation import Augmentation
from sonido_bench.datamodules.rendering.dataset import RenderedConfig, version
from sonido_bench.datamodules.rendering.track import TrackJob, load_track, render_job, track_seed
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_json

__all__ = [
    "AudioConfig",
    "AudioSource",
    "FolderAudio",
    "FolderAudioConfig",
    "RenderedAudio",
    "RenderedAudioConfig",
    "open_audio",
    "read_track",
]

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_TAIL_SECONDS = 0.05  # read from the end of each file of a folder, to find truncated ones at once
_NAMED = 5  # bad files that the warning names


@dataclass(frozen=True)
class RenderedAudioConfig:
    """Music of the split ``pretrain`` of a rendered data set.

    Attributes:
        root: Folder of this version of the data set; what is missing in it is rendered when it is first read.
        seed: Of the data set.
        seconds: Length of a track.
        tracks: Their number, with those for validation.
        validation_tracks: How many of them, the last ones, are held out.
        soundfont: A General MIDI soundfont; ``None`` for the one in pretty_midi's wheel.
    """

    root: str
    seed: int = 0
    seconds: float = 12.0
    tracks: int = 6000
    validation_tracks: int = 64
    soundfont: str | None = None

    def __post_init__(self) -> None:
        """Refuse a split that leaves nothing to train on or to validate on."""
        if not 1 <= self.validation_tracks < self.tracks:
            raise ConfigError(
                f"data.rendered: expected 1 <= validation_tracks < tracks, got {self.validation_tracks}, {self.tracks}"
            )


@dataclass(frozen=True)
class FolderAudioConfig:
    """All audio files below a folder.

    Attributes:
        root: The folder.
        validation_share: Of the files that are held out, by a hash of their names; above 0 and below 1.
    """

    root: str
    validation_share: float = 0.02

    def __post_init__(self) -> None:
        """Refuse shares that leave one side empty."""
        if not 0 < self.validation_share < 1:
            raise ConfigError(f"data.folder.validation_share must lie between 0 and 1, got {self.validation_share}")


@dataclass(frozen=True)
class AudioConfig:
    """Where the audio comes from: exactly one of the two.

    Attributes:
        rendered: Music made on the way.
        folder: Recordings.
    """

    rendered: RenderedAudioConfig | None = None
    folder: FolderAudioConfig | None = None

    def __post_init__(self) -> None:
        """Refuse both, or neither."""
        if (self.rendered is None) == (self.folder is None):
            raise ConfigError("data: expected either `rendered` or `folder`")


class AudioSource(Protocol):
    """Recordings, in a fixed order; picklable, so that worker processes can have it."""

    @property
    def training(self) -> Sequence[str]:
        """Names of the recordings to train on."""

    @property
    def validation(self) -> Sequence[str]:
        """Names of those held out."""

    @property
    def identity(self) -> str:
        """Hash of what decides the audio."""

    def clip(self, name: str) -> Clip:
        """Return a whole recording; one that is made on the way is made now.

        Raises:
            DataError: If there is none, or it cannot be made.
        """


class RenderedAudio:
    """Rendered music; see ``RenderedAudioConfig``."""

    def __init__(self, config: RenderedAudioConfig) -> None:
        self.config = config
        self.root = Path(config.root)
        self._version = RenderedConfig(
            config.seed, config.seconds, 0, 0, 0, pretrain=config.tracks, soundfont=config.soundfont
        )
        names = [f"pretrain-{index:05d}" for index in range(config.tracks)]
        self.training = names[: -config.validation_tracks]
        self.validation = names[-config.validation_tracks :]

    @cached_property
    def identity(self) -> str:
        """Hash of generator, configuration and soundfont, and of how the tracks are divided."""
        return sha256_json([version(self._version), self.config.validation_tracks])

    def clip(self, name: str) -> Clip:
        """Return a track, rendered now if it is not there.

        Raises:
            DataError: If it cannot be rendered, or the folder holds other music under its name.
        """
        job = self.job(name)
        track = load_track(self.root, name) or render_job(job)
        if (track.seed, track.seconds) != (job.seed, job.seconds):
            raise DataError(
                f"{self.root} holds {name} of {track.seconds:g} s and seed {track.seed}, expected {job.seconds:g} s "
                f"and seed {job.seed}; choose another root"
            )
        return Clip(name, self.root / track.audio, track.files[track.audio], 0.0, track.seconds)

    def job(self, name: str) -> TrackJob:
        """Return how a track is rendered."""
        seed = track_seed(self.config.seed, "pretrain", int(name.rpartition("-")[2]))
        return TrackJob(self.root, name, "pretrain", seed, self.config.seconds, False, self.config.soundfont)


class FolderAudio:
    """The readable audio files below a folder; see ``FolderAudioConfig``.

    Files that cannot be read, or end before their header says, are left out with one warning.

    Raises:
        DataError: If fewer than two files are readable.
    """

    def __init__(self, config: FolderAudioConfig) -> None:
        self.root = Path(config.root)
        paths = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self._seconds: dict[str, float] = {}
        bad = []
        for path in paths:
            try:
                self._seconds[path.relative_to(self.root).as_posix()] = _checked_seconds(path)
            except (DataError, soundfile.LibsndfileError, OSError):
                bad.append(path.relative_to(self.root).as_posix())
        if bad:
            more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            print(f"warning: unreadable audio left out: {', '.join(bad[:_NAMED])}{more}", file=sys.stderr)
        if len(self._seconds) < 2:
            raise DataError(
                f"{self.root}: expected at least two readable audio files ({', '.join(SUFFIXES)}), "
                f"found {len(self._seconds)}; name another folder"
            )
        ranked = sorted(self._seconds, key=lambda name: sha256(name.encode()).digest())
        held_out = set(ranked[: min(max(1, round(config.validation_share * len(ranked))), len(ranked) - 1)])
        self.training = [name for name in self._seconds if name not in held_out]
        self.validation = [name for name in self._seconds if name in held_out]

    @cached_property
    def identity(self) -> str:
        """Hash of the files' names, sizes and lengths, and of how they are divided."""
        sizes = {name: (self.root / name).stat().st_size for name in self._seconds}
        return sha256_json([sizes, self._seconds, self.validation])

    def clip(self, name: str) -> Clip:
        """Return a file, whole."""
        return Clip(name, self.root / name, "", 0.0, self._seconds[name])


def open_audio(config: AudioConfig) -> AudioSource:
    """Return the recordings that a configuration names.

    Raises:
        DataError: If a folder holds too few.
    """
    if config.rendered is not None:
        return RenderedAudio(config.rendered)
    assert config.folder is not None  # AudioConfig saw to it
    return FolderAudio(config.folder)


def read_track(clip: Clip, sample_rate: int, augmentation: Augmentation) -> Tensor:
    """Read a whole recording as mono, changed and resampled, shape ``(samples,)``.

    Raises:
        DataError: If it cannot be read.
    """
    audio, rate = load_clip(clip)
    return augmentation.apply(to_mono(audio), rate, sample_rate)


def _checked_seconds(path: Path) -> float:
    info = soundfile.info(path)
    seconds = float(info.frames / info.samplerate)
    tail = min(_TAIL_SECONDS, seconds)
    load_clip(Clip(path.name, path, "", seconds - tail, tail))
    if not info.frames:
        raise DataError(f"{path}: empty")
    return seconds
