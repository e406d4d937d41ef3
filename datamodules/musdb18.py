"""MUSDB18: 150 songs of four stems, 86 to train on, 14 for validation, 50 for the test.

Z. Rafii, A. Liutkus, F.-R. Stöter, S. I. Mimilakis and R. Bittner (2017, 2019),
https://sigsep.github.io/datasets/musdb.html
HQ: <root>/{train,test}/<Artist - Title>/{mixture,vocals,drums,bass,other}.wav
mp4: <root>/{train,test}/<Artist - Title>.stem.mp4, five AAC streams, without most of what lies above 16 kHz
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soundfile

from sonido_bench.datamodules.multitrack import track_files
from sonido_bench.datamodules.stem_augmentation import StemAugmentationConfig
from sonido_bench.datamodules.stems.audio_file import StemFile
from sonido_bench.datamodules.stems.batch import StemFormat, StemTarget
from sonido_bench.datamodules.stems.datamodule import StemDataModule, StemSplit
from sonido_bench.datamodules.stems.index import IndexJob, TrackFiles
from sonido_bench.errors import DataError

__all__ = ["STEMS", "VALIDATION_TRACKS", "DecodeJob", "MUSDB18DataModule", "MUSDB18HQDataModule"]

STEMS = ("vocals", "drums", "bass", "other")

VALIDATION_TRACKS = (
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
)
"""Of the 100 tracks in ``train``; those of the musdb package, configs/mus.yaml."""

_STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a .stem.mp4, in this order
_SUFFIX = ".stem.mp4"
_FULL_SCALE = 2**15  # stempeg decodes to 16 bits


class MUSDB18HQDataModule(StemDataModule):
    """MUSDB18-HQ, read from its WAV files; see ``StemDataModule`` for what is given out.

    Which of the training tracks are for validation is fixed. A part of the data set will do: what is there is used.

    Args:
        root: Folder with ``train`` and ``test``.
        target: ``stems`` for separation, ``mix`` for mixing.
        normalised: Whether to read ``<stem>_normalized.wav`` instead, as the input of mixing.
        sample_rate: In Hz.
        channels: Of the audio that is given out.
        segment_seconds: Length of a training segment.
        chunk_seconds: Length of a chunk of a validation or test track; whole seconds, 2 or more, suit scores of
            1 s windows; ``None``: whole tracks.
        augmentation: What happens to training stems; ``None``: nothing, and features can be cached.
        fraction: Share of the training tracks that is used, in (0, 1].
        seed: Decides that share, the order of training and what the augmentation draws.
        batch_size: Clips of a batch.
        num_workers: Processes that read audio.
        batches_per_epoch: ``None`` for as much audio as the training tracks hold.
        index: Folder of what is known of the files; ``None`` for one in ``root``.

    Raises:
        ConfigError: If an argument is out of range.
    """

    name = "musdb18hq"
    licence: ClassVar[str] = "research, not commercial; each track its own"
    source: ClassVar[str] = "https://zenodo.org/records/3338373"
    remedy: ClassVar[str] = "fetch MUSDB18-HQ and give the folder that holds its train and test as root"

    def __init__(
        self,
        root: str | Path,
        target: StemTarget = "stems",
        normalised: bool = False,
        sample_rate: int = 44100,
        channels: int = 2,
        segment_seconds: float = 6.0,
        chunk_seconds: float | None = 30.0,
        augmentation: StemAugmentationConfig | None = None,
        fraction: float = 1.0,
        seed: int = 0,
        batch_size: int = 16,
        num_workers: int = 0,
        batches_per_epoch: int | None = None,
        index: str | Path | None = None,
    ) -> None:
        self.normalised = normalised
        super().__init__(
            Path(root),
            StemFormat(STEMS, target, sample_rate, channels),
            segment_seconds,
            chunk_seconds,
            augmentation,
            fraction,
            seed,
            batch_size,
            num_workers,
            batches_per_epoch,
            index,
        )

    def find(self, split: StemSplit) -> list[TrackFiles]:
        """Return the files of a split's tracks, by name.

        Raises:
            DataError: If a track lacks a file.
        """
        return [_complete(path, self.normalised) for path in self._folders(split)]

    def check(self, track: TrackFiles, files: Mapping[Path, StemFile]) -> None:
        """Refuse a track whose files differ in length or sample rate: one of them is cut or not of this data set.

        Raises:
            DataError: If so.
        """
        lengths = {path.stem: (file.frames, file.sample_rate) for path, file in files.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"{self.root}: the files of {track.name!r} differ in frames and sample rate: {lengths}; fetch it again"
            )

    def _folders(self, split: StemSplit) -> list[Path]:
        subset = self.root / ("test" if split == "test" else "train")
        folders = sorted(path for path in subset.glob("*") if path.is_dir() and not path.name.startswith("."))
        if split == "test":
            return folders
        return [path for path in folders if (path.name in VALIDATION_TRACKS) == (split == "validation")]


class MUSDB18DataModule(MUSDB18HQDataModule):
    """MUSDB18 as ``.stem.mp4`` files, decoded once to WAV files as MUSDB18-HQ has them.

    Decoding a part of an mp4 takes about a second, reading one of a WAV file a millisecond: hence once, and all.

    Args:
        root: Folder with ``train`` and ``test``.
        decoded: Folder of the WAV files, about 30 GB; ``None`` for ``<root>-wav``.
        target: ``stems`` for separation, ``mix`` for mixing.
        normalised: Whether to read ``<stem>_normalized.wav`` instead, as the input of mixing.
        sample_rate: In Hz.
        channels: Of the audio that is given out.
        segment_seconds: Length of a training segment.
        chunk_seconds: Length of a chunk of a validation or test track; whole seconds, 2 or more, suit scores of
            1 s windows; ``None``: whole tracks.
        augmentation: What happens to training stems; ``None``: nothing, and features can be cached.
        fraction: Share of the training tracks that is used, in (0, 1].
        seed: Decides that share, the order of training and what the augmentation draws.
        batch_size: Clips of a batch.
        num_workers: Processes that read audio.
        batches_per_epoch: ``None`` for as much audio as the training tracks hold.
        index: Folder of what is known of the files; ``None`` for one in ``decoded``.

    Raises:
        ConfigError: If an argument is out of range.
    """

    name = "musdb18"
    source: ClassVar[str] = "https://zenodo.org/records/1117372"
    remedy: ClassVar[str] = "fetch MUSDB18, give the folder that holds its train and test as root, prepare the data"

    def __init__(
        self,
        root: str | Path,
        decoded: str | Path | None = None,
        target: StemTarget = "stems",
        normalised: bool = False,
        sample_rate: int = 44100,
        channels: int = 2,
        segment_seconds: float = 6.0,
        chunk_seconds: float | None = 30.0,
        augmentation: StemAugmentationConfig | None = None,
        fraction: float = 1.0,
        seed: int = 0,
        batch_size: int = 16,
        num_workers: int = 0,
        batches_per_epoch: int | None = None,
        index: str | Path | None = None,
    ) -> None:
        self.archive = Path(root)
        super().__init__(
            self.archive.with_name(f"{self.archive.name}-wav") if decoded is None else decoded,
            target,
            normalised,
            sample_rate,
            channels,
            segment_seconds,
            chunk_seconds,
            augmentation,
            fraction,
            seed,
            batch_size,
            num_workers,
            batches_per_epoch,
            index,
        )

    def preparation_jobs(self) -> Sequence[Any]:
        """Return what is left to decode or to examine, for a pool of processes to call."""
        missing = []
        for subset in ("train", "test"):
            for path in sorted((self.archive / subset).glob(f"*{_SUFFIX}")):
                name = path.name.removesuffix(_SUFFIX)
                split = "validation" if subset == "train" and name in VALIDATION_TRACKS else subset
                if not (self.root / subset / name).is_dir():
                    missing.append(DecodeJob(path, self.root / subset / name, self.index / split / f"{name}.json"))
        return [*missing, *super().preparation_jobs()]


@dataclass(frozen=True)
class DecodeJob:
    """Decode a ``.stem.mp4`` into a folder of WAV files; can be pickled and called in any process.

    Attributes:
        path: The file.
        folder: The folder, which appears when it is complete.
        row: Where it is written what the files are.
    """

    path: Path
    folder: Path
    row: Path

    @property
    def label(self) -> str:
        """What a progress bar shows."""
        return self.folder.name

    def __call__(self) -> None:
        """Decode one stream after another, then examine the files.

        Raises:
            DataError: If musdb, ffmpeg or ffprobe is missing, or the file cannot be decoded or written.
        """
        multitrack = _musdb_track(self.path)
        part = self.folder.with_name(f".{self.folder.name}.part")
        try:
            part.mkdir(parents=True, exist_ok=True)
            for number, name in enumerate(_STREAMS):
                audio = np.asarray(multitrack.load_audio(str(self.path), number))
                levels = np.rint(audio * _FULL_SCALE).clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
                soundfile.write(part / f"{name}.wav", levels, round(multitrack.rate), subtype="PCM_16")
            part.rename(self.folder)
        except Exception as error:  # stempeg passes on whatever the wrapper of ffmpeg raises
            raise DataError(
                f"{self.path}: cannot decode it to {self.folder}: {error}; fetch it again, or free some space"
            ) from error
        IndexJob(_complete(self.folder, normalised=False), self.row)()


def _musdb_track(path: Path) -> Any:
    try:
        from musdb.audio_classes import MultiTrack  # lazy: it looks for ffmpeg when it is imported
    except (ImportError, RuntimeError) as error:  # RuntimeError: no ffmpeg or no ffprobe
        raise DataError(
            f"{path}: reading .stem.mp4 files needs the package musdb and the programs ffmpeg and ffprobe on PATH "
            f"({error}); install them, or use MUSDB18-HQ, which needs neither"
        ) from error
    try:
        return MultiTrack(path=str(path), name=path.name.removesuffix(_SUFFIX), stem_id=0)
    except Exception as error:  # whatever stempeg and ffprobe make of a damaged file
        raise DataError(f"{path}: expected a .stem.mp4 with five streams: {error}; fetch the file again") from error


def _complete(folder: Path, normalised: bool) -> TrackFiles:
    """Return the files of a track, of which none may be missing."""
    files = track_files(folder, STEMS, normalised)
    absent = [name for name in STEMS if name not in files.stems] + ["mixture"] * (files.mixture is None)
    if absent:
        raise DataError(f"{folder}: has no file of {', '.join(absent)}; fetch the data set again")
    return files
