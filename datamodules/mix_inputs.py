"""The inputs of mixing made of rendered tracks: normalised dry stems, and a downmix to extract features from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

import soundfile
import torch
from torch import Tensor

from sonido_bench.datamodules.musdb18 import STEMS
from sonido_bench.datamodules.rendering.track import Track, TrackJob, render_job
from sonido_bench.datamodules.stems.audio_file import StemFile
from sonido_bench.datamodules.stems.batch import StemFormat, downmix
from sonido_bench.datamodules.stems.track import StemTrack
from sonido_bench.errors import DataError
from sonido_bench.files import atomic_path, sha256_json

__all__ = ["MixInputJob", "RenderedInputJob", "StemNormalisation", "dry_track", "wet_track"]

_ROLES = {"melody": "vocals", "drums": "drums", "bass": "bass", "chords": "other", "pad": "other", "counter": "other"}
"""As rendering/track.py groups the wet stems."""

_FORMAT_VERSION = 1  # of the inputs of mixing, which are made here


@runtime_checkable
class StemNormalisation(Protocol):
    """What makes dry stems alike before they are mixed: FxNorm's effect normalisation, say."""

    @property
    def identity(self) -> str:
        """Hash of all that decides the outcome."""

    # No `__call__`: jsonargparse takes a protocol of one for a type of functions, which no class path can name.
    def apply(self, track: str, stem: str, audio: Tensor, sample_rate: int) -> Tensor:
        """Return a stem ``(channels, samples)`` float32 of a track normalised, of the same shape."""


def wet_track(root: Path, track: Track) -> StemTrack:
    """Return a rendered track's wet stems and mix; its features are those of the file that the other targets hear."""
    wet = {PurePosixPath(file).stem: file for file in track.files if file.startswith("musdb18hq/")}
    stems = {name: (_file(root, track, wet[name]),) for name in STEMS}
    return StemTrack(track.name, stems, _file(root, track, wet["mixture"]), _file(root, track, track.audio))


def dry_track(root: Path, track: Track) -> StemTrack:
    """Return a rendered track's dry stems, grouped, with the mix that was made of them."""
    dry = {PurePosixPath(file).stem: file for file in track.files if file.startswith("dry/")}
    grouped = {
        name: tuple(_file(root, track, file) for role, file in dry.items() if _ROLES[role] == name) for name in STEMS
    }
    return StemTrack(track.name, grouped, wet_track(root, track).mixture)


@dataclass(frozen=True)
class MixInputJob:
    """Make the input of mixing for a track; can be pickled and called in any process.

    Attributes:
        track: The dry stems.
        folder: Where the downmix goes, and the stems if they are normalised.
        normalisation: Of the stems, or ``None``.
    """

    track: StemTrack
    folder: Path
    normalisation: StemNormalisation | None

    @property
    def label(self) -> str:
        """What a progress bar shows."""
        return self.track.name

    @property
    def done(self) -> bool:
        """Whether the files are there; the downmix is written last."""
        return self._downmix.is_file()

    @cached_property
    def _identity(self) -> str:
        """Hash of what decides the files' content, from which it follows: it serves as their checksum."""
        dry = {name: [file.sha256 for file in files] for name, files in self.track.stems.items()}
        return sha256_json([_FORMAT_VERSION, dry, self.normalisation.identity if self.normalisation else None])

    @property
    def _downmix(self) -> Path:
        return self.folder / "downmix.au"

    @property
    def result(self) -> StemTrack:
        """The track with its input, once that is made."""
        assert self.track.mixture is not None
        frames, rate = self.track.mixture.frames, self.track.mixture.sample_rate
        heard = StemFile(self._downmix, frames, rate, 1, sha256_json([self._identity, "downmix"]))
        stems = dict(self.track.stems)
        if self.normalisation is not None:
            stems = {
                name: (StemFile(self.folder / f"{name}.au", frames, rate, 2, sha256_json([self._identity, name])),)
                for name, files in self.track.stems.items()
                if files
            }
        return StemTrack(self.track.name, stems, self.track.mixture, heard)

    def __call__(self) -> None:
        """Make the files.

        Raises:
            DataError: If a dry stem cannot be read, the normalisation fails, or a file cannot be written.
        """
        assert self.track.mixture is not None
        format = StemFormat(STEMS, "mix", self.track.mixture.sample_rate)
        stems = self.track.read_stems(0, self.track.mixture.frames, format)
        try:
            if self.normalisation is not None:
                stems = self._normalise(stems, self.normalisation, format.sample_rate)
            _write(self._downmix, downmix(stems), format.sample_rate)
        except (OSError, soundfile.SoundFileError) as error:
            raise DataError(f"cannot write to {self.folder}: {error}; free some space") from error

    def _normalise(self, stems: Tensor, normalisation: StemNormalisation, sample_rate: int) -> Tensor:
        """Normalise and write all stems that play."""
        normalised = torch.zeros_like(stems)
        for place, name in enumerate(STEMS):
            if not self.track.stems.get(name):
                continue
            audio = normalisation.apply(self.track.name, name, stems[place], sample_rate)
            if audio.shape != stems[place].shape or not torch.isfinite(audio).all():
                raise DataError(
                    f"{self.track.name}: expected finite normalised {name} of shape {tuple(stems[place].shape)}, "
                    f"found {tuple(audio.shape)}; mend the normalisation"
                )
            normalised[place] = audio
            _write(self.folder / f"{name}.au", audio, sample_rate)
        return normalised


def _write(path: Path, audio: Tensor, sample_rate: int) -> None:
    # Sun's format: libsndfile stamps the time into float WAV files, and FLAC would clip what lies beyond full scale.
    with atomic_path(path) as temporary:
        soundfile.write(temporary, audio.T.numpy(), sample_rate, subtype="FLOAT")


@dataclass(frozen=True)
class RenderedInputJob:
    """Render a track, then make its input of mixing; can be pickled and called in any process.

    Attributes:
        track: What to render.
        folder: Of the inputs of all tracks.
        normalisation: Of the dry stems, or ``None``.
    """

    track: TrackJob
    folder: Path
    normalisation: StemNormalisation | None

    @property
    def label(self) -> str:
        """What a progress bar shows."""
        return self.track.label

    def __call__(self) -> None:
        """Make the files.

        Raises:
            DataError: As ``render_job`` and ``MixInputJob`` do.
        """
        dry = dry_track(self.track.root, render_job(self.track))
        MixInputJob(dry, self.folder / self.track.name, self.normalisation)()


def _file(root: Path, track: Track, file: str) -> StemFile:
    frames = round(track.seconds * track.sample_rate)
    return StemFile(root / file, frames, track.sample_rate, 2, track.files[file])
