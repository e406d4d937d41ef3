"""What the data modules of stems on disk share: an index, splits, clips, loaders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from sonido_bench.clips import Clip
from sonido_bench.datamodules.base import CachedStreams, training_subset
from sonido_bench.datamodules.stem_augmentation import AugmentedStems, StemAugmentationConfig
from sonido_bench.datamodules.stems.audio_file import StemFile
from sonido_bench.datamodules.stems.batch import StemFormat
from sonido_bench.datamodules.stems.clips import StemClip, StemClips, evaluation_clips, training_clips
from sonido_bench.datamodules.stems.index import IndexJob, TrackFiles, load_row, unreadable
from sonido_bench.datamodules.stems.loaders import evaluation_loader, training_loader
from sonido_bench.datamodules.stems.track import StemTrack
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_json

__all__ = ["STAGES", "StemDataModule", "StemSplit", "check_loading", "refuse_cache"]

StemSplit = Literal["train", "validation", "test"]
_SPLITS: tuple[StemSplit, ...] = ("train", "validation", "test")
STAGES: dict[str | None, tuple[StemSplit, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": (),
    None: _SPLITS,
}
"""Lightning's stages and the splits that they read."""


class StemDataModule(pl.LightningDataModule):
    """Tracks of stems in a folder; a subclass finds their files.

    Batches are ``StemBatch``. Without ``augmentation`` the training clips are fixed segments, whose features can be
    cached; with it they are drawn anew for every step, and ``clips`` and ``attach`` refuse. Validation and test
    tracks come whole, in chunks.

    Args:
        root: Folder of the data.
        format: How the audio is given out.
        segment_seconds: Length of a training segment.
        chunk_seconds: Length of a chunk of a validation or test track; ``None``: whole tracks, one a batch if their
            lengths differ.
        augmentation: What happens to training stems; ``None``: nothing, and segments are fixed.
        fraction: Share of the training tracks that is used, in (0, 1].
        seed: Decides that share, the order of training and what the augmentation draws.
        batch_size: Clips of a batch.
        num_workers: Processes that read audio.
        batches_per_epoch: ``None`` for as much audio as the training tracks hold.
        index: Folder of what is known of the files; ``None`` for one in ``root``.

    Raises:
        ConfigError: If an argument is out of range.
    """

    licence: ClassVar[str]
    source: ClassVar[str]
    remedy: ClassVar[str]
    """What to do if there are no tracks."""

    def __init__(
        self,
        root: Path,
        format: StemFormat,
        segment_seconds: float,
        chunk_seconds: float | None,
        augmentation: StemAugmentationConfig | None,
        fraction: float,
        seed: int,
        batch_size: int,
        num_workers: int,
        batches_per_epoch: int | None,
        index: str | Path | None,
    ) -> None:
        super().__init__()
        check_loading(batch_size, num_workers, batches_per_epoch, segment_seconds, chunk_seconds)
        training_subset(1, fraction, seed)  # refuses a wrong fraction now, not after the data are indexed
        self.root = Path(root)
        self.format = format
        self.segment_seconds = segment_seconds
        self.chunk_seconds = chunk_seconds
        self.augmentation = augmentation
        self.fraction = fraction
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.batches_per_epoch = batches_per_epoch
        self.index = self.root / ".sonido_bench" if index is None else Path(index)
        self._datasets: dict[StemSplit, StemClips | AugmentedStems] = {}
        self._tracks: dict[StemSplit, list[StemTrack]] = {}
        self._cached: tuple[CachedStreams | None, CachedStreams | None] = None, None

    # --- what a subclass writes -------------------------------------------------------------------------------------

    def find(self, split: StemSplit) -> list[TrackFiles]:
        """Return the files of a split's tracks, in an order that does not change.

        Raises:
            DataError: If the folder does not have the expected layout.
        """
        raise NotImplementedError

    def check(self, track: TrackFiles, files: Mapping[Path, StemFile]) -> None:
        """Refuse a track whose files do not fit one another.

        Raises:
            DataError: If so.
        """

    # --- preparation ------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where the data lie."""
        return self.root

    def prepare_data(self) -> None:
        """Examine the files that are not in the index."""
        for job in self.preparation_jobs():
            job()
        self.finish_preparation()

    def preparation_jobs(self) -> Sequence[Any]:
        """Return what is left to be done, for a pool of processes to call; ``finish_preparation`` follows."""
        return [
            IndexJob(track, row)
            for split in _SPLITS
            for track, row in self._rows(split)
            if load_row(track, row) is None
        ]

    def finish_preparation(self) -> None:
        """Check that all files are known and fit one another.

        Raises:
            DataError: If they do not.
        """
        self._tracks.clear()
        if not self.find("train"):
            raise DataError(f"{self.root}: expected tracks to train on, found none; {self.remedy}")
        names = [track.name for split in _SPLITS for track in self.tracks(split)]
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        if twice:
            raise DataError(f"{self.root}: two tracks are called {twice[0]!r}; rename one")

    def verify(self) -> list[str]:
        """Return one line for every file that is missing or damaged."""
        return unreadable(track for split in _SPLITS for track in self.find(split))

    def describe(self) -> dict[str, str | int]:
        """Return what ``sonido-bench data list`` shows."""
        return {
            "name": str(self.name),
            "version": self.version[:12],
            **{split: len(self.find(split)) for split in _SPLITS},
            "prepared": "yes" if self.find("train") and not self.preparation_jobs() else "no",
            "folder": str(self.root),
            "licence": self.licence,
            "source": self.source,
        }

    @property
    def version(self) -> str:
        """Hash of the names of tracks and stems and of how they are divided."""
        tracks = {split: [[track.name, sorted(track.stems)] for track in self.find(split)] for split in _SPLITS}
        return sha256_json([self.name, self.format.names, tracks])

    @property
    def sha256(self) -> str:
        """Hash of all files that are used and of how they are given out; needs prepared data."""
        tracks = [
            [
                track.name,
                {name: [file.sha256 for file in files] for name, files in track.stems.items()},
                [file.sha256 if file else None for file in (track.mixture, track.heard)],
            ]
            for split in _SPLITS
            for track in self._all_tracks(split)
        ]
        return sha256_json([self.version, self.format.sample_rate, self.format.channels, tracks])

    # --- tracks and clips -------------------------------------------------------------------------------------------

    def tracks(self, split: StemSplit) -> list[StemTrack]:
        """Return the tracks of a split, to be read as one likes; of ``train`` the chosen share, in a random order.

        Raises:
            DataError: If the data are not prepared, or files do not fit one another.
        """
        tracks = self._all_tracks(split)
        if split != "train":
            return tracks
        return [tracks[index] for index in training_subset(len(tracks), self.fraction, self.seed)]

    def clips(self, split: StemSplit) -> list[Clip]:
        """Return the clips of a split as parts of the files whose features belong to them.

        Raises:
            ConfigError: If training clips are drawn anew for every step, or a track has no such file.
        """
        refuse_cache(self.augmentation)
        return [clip.feature_clip for clip in self._stem_clips(split)]

    def attach(self, front_end: CachedStreams | None, features: CachedStreams | None) -> None:
        """Let batches carry cached streams; they must hold every clip that is asked for later.

        Raises:
            ConfigError: If training clips are drawn anew for every step.
        """
        if front_end is not None or features is not None:
            refuse_cache(self.augmentation)
        self._cached = front_end, features
        self._datasets.clear()

    def setup(self, stage: str | None = None) -> None:
        """Build the data sets of a stage."""
        for split in STAGES[stage]:
            self._dataset(split)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, in an order that follows from seed and step."""
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        dataset, batches = self._dataset("train"), self.batches_per_epoch
        return training_loader(dataset, self.batch_size, self.num_workers, self.seed, batches, rank, processes)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the chunks of the validation tracks, in order."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the chunks of the test tracks, in order."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: StemSplit) -> DataLoader[Any]:
        dataset = self._dataset(split)
        assert isinstance(dataset, StemClips)  # only training clips are drawn
        return evaluation_loader(dataset, self.batch_size, self.num_workers)

    def _dataset(self, split: StemSplit) -> StemClips | AugmentedStems:
        if split not in self._datasets:
            if split == "train" and self.augmentation is not None:
                self._datasets[split] = AugmentedStems(
                    self.tracks(split), self.format, self.segment_seconds, self.augmentation, self.seed
                )
            else:
                clips = StemClips(self._stem_clips(split), self.format)
                clips.attach(*self._cached)
                self._datasets[split] = clips
        return self._datasets[split]

    def _stem_clips(self, split: StemSplit) -> list[StemClip]:
        if split == "train":
            return training_clips(self.tracks(split), self.segment_seconds, self.format.sample_rate)
        return evaluation_clips(self.tracks(split), self.chunk_seconds, self.format.sample_rate)

    def _rows(self, split: StemSplit) -> list[tuple[TrackFiles, Path]]:
        return [(track, self.index / split / f"{track.name}.json") for track in self.find(split)]

    def _all_tracks(self, split: StemSplit) -> list[StemTrack]:
        if split not in self._tracks:
            self._tracks[split] = [self._open(track, row) for track, row in self._rows(split)]
        return self._tracks[split]

    def _open(self, track: TrackFiles, row: Path) -> StemTrack:
        files = load_row(track, row)
        if files is None:
            raise DataError(f"{self.root}: the files of {track.name!r} are not indexed; prepare the data first")
        self.check(track, files)
        mixture, downmix = (files[path] if path else None for path in (track.mixture, track.downmix))
        stems = {name: (files[path],) for name, path in track.stems.items()}
        return StemTrack(track.name, stems, mixture, mixture if self.format.target == "stems" else downmix)


def refuse_cache(augmentation: StemAugmentationConfig | None) -> None:
    """Refuse cached features where the training audio is drawn anew for every step.

    Raises:
        ConfigError: If there is an augmentation.
    """
    if augmentation is not None:
        raise ConfigError(
            "cached features cannot serve this data set: its `augmentation` changes the audio at every step, so the "
            "foundation model must run online on the changed audio; extract online, or set `augmentation: null`"
        )


def check_loading(batch_size: int, num_workers: int, batches_per_epoch: int | None, *seconds: float | None) -> None:
    """Refuse sizes and lengths out of range.

    Raises:
        ConfigError: If one is.
    """
    if batch_size < 1 or num_workers < 0 or (batches_per_epoch is not None and batches_per_epoch < 1):
        raise ConfigError(
            "batch_size and batches_per_epoch must be at least 1 and num_workers at least 0, "
            f"got {batch_size}, {batches_per_epoch}, {num_workers}"
        )
    if any(length is not None and not length >= 0.01 for length in seconds):
        raise ConfigError(f"segments and chunks must last 0.01 s or longer, got {[*seconds]}")
