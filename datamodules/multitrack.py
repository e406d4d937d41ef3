"""Any folder of multitracks: a folder per track, an audio file per stem.

<root>/<track>/<stem>.wav                            divided by a hash of the tracks' names, or
<root>/{train,validation,test}/<track>/<stem>.wav    as they are divided
beside the stems, if there are any: mixture.wav, <stem>_normalized.wav, downmix.wav (mono, of the stems)
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from sonido_bench.datamodules.stem_augmentation import StemAugmentationConfig
from sonido_bench.datamodules.stems.audio_file import SUFFIXES, StemFile
from sonido_bench.datamodules.stems.batch import StemFormat, StemTarget
from sonido_bench.datamodules.stems.datamodule import StemDataModule, StemSplit
from sonido_bench.datamodules.stems.index import TrackFiles
from sonido_bench.errors import ConfigError, DataError

__all__ = ["NORMALIZED", "MultitrackDataModule", "audio_files", "track_files"]

NORMALIZED = "_normalized"
"""Ends the names of files with effect-normalised stems, as FxNorm-automix writes them."""

_MIXTURE, _DOWNMIX = "mixture", "downmix"


class MultitrackDataModule(StemDataModule):
    """The user's own multitracks; see ``StemDataModule`` for what is given out.

    Files may be mono, of different sample rates and of different lengths: a stem that ends before the mixture is
    followed by silence, and one that is absent is silent. Without a mixture file the mixture is the sum of ``stems``.

    Args:
        root: The folder.
        stems: Their names, without suffix, in order; ``None``: all that any training track has.
        target: ``stems`` for separation, ``mix`` for mixing.
        normalised: Whether to read ``<stem>_normalized`` files instead, as the input of mixing.
        validation_share: Of the tracks, where the folder has no ``validation``; above 0.
        test_share: Of the tracks, where they are not divided at all.
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
        DataError: If the folder holds no tracks.
    """

    name = "multitrack"
    licence: ClassVar[str] = "the user's"
    source: ClassVar[str] = "a folder"
    remedy: ClassVar[str] = "name another folder"

    def __init__(
        self,
        root: str | Path,
        stems: Sequence[str] | None = None,
        target: StemTarget = "stems",
        normalised: bool = False,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        sample_rate: int = 44100,
        channels: int = 2,
        segment_seconds: float = 6.0,
        chunk_seconds: float | None = 30.0,
        augmentation: StemAugmentationConfig | None = None,
        fraction: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        num_workers: int = 0,
        batches_per_epoch: int | None = None,
        index: str | Path | None = None,
    ) -> None:
        if validation_share <= 0 or test_share <= 0 or validation_share + test_share >= 1:
            raise ConfigError(
                "validation_share and test_share must be above 0 and leave some tracks to train on, "
                f"got {validation_share} and {test_share}"
            )
        self.validation_share = validation_share
        self.test_share = test_share
        self.normalised = normalised
        divided = _divide(Path(root), validation_share, test_share)
        names = tuple(stems) if stems else _stem_names(divided["train"], normalised)
        if not names:
            raise DataError(f"{root}: expected a folder per track with an audio file per stem; found none in train")
        super().__init__(
            Path(root),
            StemFormat(names, target, sample_rate, channels),
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

    @cached_property
    def _folders(self) -> dict[StemSplit, list[Path]]:
        return _divide(self.root, self.validation_share, self.test_share)

    def find(self, split: StemSplit) -> list[TrackFiles]:
        """Return the files of a split's tracks, by name.

        Raises:
            DataError: If a track has none of the stems.
        """
        return [track_files(folder, self.format.names, self.normalised) for folder in self._folders[split]]

    def check(self, track: TrackFiles, files: Mapping[Path, StemFile]) -> None:
        """Refuse a track without a mix where mixing is to be learned.

        Raises:
            DataError: If so.
        """
        if self.format.target == "mix" and track.mixture is None:
            raise DataError(f"{self.root}: track {track.name!r} has no mixture to learn mixing from; add mixture.wav")


def audio_files(folder: Path) -> dict[str, Path]:
    """Return the audio files of a folder by their names without suffix.

    Raises:
        DataError: If two have the same name.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or not path.is_file() or path.name.startswith("."):
            continue
        if path.stem in files:
            raise DataError(f"{folder}: both {files[path.stem].name} and {path.name} are {path.stem!r}; remove one")
        files[path.stem] = path
    return files


def track_files(folder: Path, names: Sequence[str], normalised: bool) -> TrackFiles:
    """Return the files of a track's folder.

    Args:
        folder: Of the track.
        names: Of the stems that are wanted.
        normalised: Whether their normalised versions are.

    Raises:
        DataError: If there is none of the stems.
    """
    files = audio_files(folder)
    suffix = NORMALIZED if normalised else ""
    stems = {name: files[name + suffix] for name in names if name + suffix in files}
    if not stems:
        wanted = ", ".join(name + suffix for name in names)
        raise DataError(f"{folder}: expected audio files of {wanted}; found {', '.join(files) or 'none'}")
    return TrackFiles(folder.name, stems, files.get(_MIXTURE), files.get(_DOWNMIX))


def _divide(root: Path, validation_share: float, test_share: float) -> dict[StemSplit, list[Path]]:
    """Return the folders of each split's tracks, by name."""
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of multitracks, found none; name another one")
    if (root / "train").is_dir():
        train, validation, test = (_subfolders(root / split) for split in ("train", "validation", "test"))
        if not validation:
            train, validation = _hold_out(train, validation_share)
    else:
        rest, test = _hold_out(_subfolders(root), test_share)
        train, validation = _hold_out(rest, validation_share / (1 - test_share))
    return {"train": train, "validation": validation, "test": test}


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _hold_out(folders: list[Path], share: float) -> tuple[list[Path], list[Path]]:
    """Divide folders by a hash of their names: at least one is held out, and one kept, if there are two."""
    ranked = sorted(folders, key=lambda folder: sha256(folder.name.encode()).digest())
    count = min(max(1, round(share * len(ranked))), len(ranked) - 1) if ranked else 0
    held_out = set(ranked[:count])
    return [folder for folder in folders if folder not in held_out], sorted(held_out)


def _stem_names(folders: Sequence[Path], normalised: bool) -> tuple[str, ...]:
    """Return the stems that any of the tracks has, sorted."""
    found = {name for folder in folders for name in audio_files(folder)} - {_MIXTURE, _DOWNMIX}
    if normalised:
        return tuple(sorted(name.removesuffix(NORMALIZED) for name in found if name.endswith(NORMALIZED)))
    return tuple(sorted(name for name in found if not name.endswith(NORMALIZED)))
