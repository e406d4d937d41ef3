"""The embedded data set: music made on the spot from a seed, with exact ground truth (docs/data.md)."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sonido_bench.clips import Clip
from sonido_bench.datamodules.base import (
    Batch,
    CachedStreams,
    ClipDataset,
    PairedBatchSampler,
    clip_loader,
    training_subset,
)
from sonido_bench.datamodules.notes import clip_notes, merge_notes
from sonido_bench.datamodules.rendering.dataset import (
    Manifest,
    RenderedConfig,
    finish,
    load_manifest,
    prepare,
    tracks_to_render,
    verify,
    version,
)
from sonido_bench.datamodules.rendering.harmony import KEYS
from sonido_bench.datamodules.rendering.programs import TAGS
from sonido_bench.datamodules.rendering.track import Track, TrackJob
from sonido_bench.errors import ConfigError

__all__ = ["TEMPO_CENTRE", "RenderedDataModule", "Target", "track_notes"]

Target = Literal["instruments", "key", "tempo", "notes"]
LabelledSplit = Literal["train", "validation", "test"]

TEMPO_CENTRE = 104.0
"""Beats per minute; the tempo target counts octaves from here, about -0.8 to 0.8."""

_STAGES: dict[str | None, tuple[LabelledSplit, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": (),
    None: ("train", "validation", "test"),
}


class RenderedDataModule(pl.LightningDataModule):
    """Clips of rendered music with one of their truths as the target.

    Batches are ``TargetBatch`` for ``instruments`` (``(batch, 12)`` 0/1), ``key`` (``(batch,)`` class numbers) and
    ``tempo`` (``(batch, 1)``, octaves from ``TEMPO_CENTRE``), and ``NoteBatch`` for ``notes`` (all pitched parts).
    They carry stereo audio at 44.1 kHz, or cached streams after ``attach``.

    Args:
        root: Folder of the data; each version has a folder of its own in it.
        target: What is to be learned.
        seconds: Length of a clip.
        train_tracks: Clips of the training split.
        validation_tracks: Clips of the validation split.
        test_tracks: Clips of the test split.
        stems: Whether to render stems as well.
        data_seed: Of the music.
        soundfont: A General MIDI soundfont; ``None`` for the one in pretty_midi's wheel.
        fraction: Share of the training clips that is used, in (0, 1].
        seed: Decides that share and the order of training.
        batch_size: Clips of a batch.
        num_workers: Processes that render, and that read audio.
        batches_per_epoch: ``None`` for one pass over the training clips.

    Raises:
        ConfigError: If an argument is out of range.
    """

    name = "rendered"

    def __init__(
        self,
        root: str | Path = "data/rendered",
        target: Target = "instruments",
        seconds: float = 6.0,
        train_tracks: int = 600,
        validation_tracks: int = 150,
        test_tracks: int = 500,
        stems: bool = False,
        data_seed: int = 0,
        soundfont: str | None = None,
        fraction: float = 1.0,
        seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        batches_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        if target not in get_args(Target):
            raise ConfigError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}")
        if batch_size < 1 or num_workers < 0 or (batches_per_epoch is not None and batches_per_epoch < 1):
            raise ConfigError(
                "batch_size and batches_per_epoch must be at least 1 and num_workers at least 0, "
                f"got {batch_size}, {batches_per_epoch}, {num_workers}"
            )
        self.config = RenderedConfig(
            data_seed, seconds, train_tracks, validation_tracks, test_tracks, stems=stems, soundfont=soundfont
        )
        self.train_indices = training_subset(train_tracks, fraction, seed)
        self.root = Path(root)
        self.target: Target = target
        self.fraction = fraction
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.batches_per_epoch = batches_per_epoch
        self._front_end: CachedStreams | None = None
        self._features: CachedStreams | None = None
        self._datasets: dict[LabelledSplit, ClipDataset] = {}

    @cached_property
    def version(self) -> str:
        """Hash of what decides the data: generator, configuration, soundfont."""
        return version(self.config)

    @property
    def folder(self) -> Path:
        """Where this version lies."""
        return self.root / self.version[:12]

    @property
    def sha256(self) -> str:
        """Hash of the manifest, which holds the hash of every file; needs prepared data."""
        return str(self.manifest.card["manifest_sha256"])

    @cached_property
    def manifest(self) -> Manifest:
        """The prepared data's manifest."""
        return load_manifest(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the target's classes or outputs; none for notes."""
        return {"instruments": TAGS, "key": KEYS, "tempo": ("tempo",), "notes": ()}[self.target]

    def clips(self, split: LabelledSplit) -> list[Clip]:
        """Return the clips of a split; of ``train`` the chosen share alone, in a random order.

        Raises:
            DataError: If the data are not prepared.
        """
        return [
            Clip(track.name, self.folder / track.audio, track.files[track.audio], 0.0, track.seconds)
            for track in self._tracks(split)
        ]

    def attach(self, front_end: CachedStreams | None, features: CachedStreams | None) -> None:
        """Let batches carry cached streams instead of audio; they must hold every clip that is asked for later."""
        self._front_end, self._features = front_end, features
        self._datasets.clear()

    def prepare_data(self) -> None:
        """Render what is missing."""
        prepare(self.folder, self.config, workers=max(self.num_workers, 1))

    def preparation_jobs(self) -> list[TrackJob]:
        """Return what is left to render, for a pool of processes to call; ``finish_preparation`` follows."""
        return tracks_to_render(self.folder, self.config)

    def finish_preparation(self) -> None:
        """Write the manifest of the rendered tracks.

        Raises:
            DataError: If a track is missing.
        """
        finish(self.folder, self.config)

    def describe(self) -> dict[str, str | int]:
        """Return what ``sonido-bench data list`` shows."""
        return {
            "name": self.name,
            "version": self.version[:12],
            "train": self.config.train,
            "validation": self.config.validation,
            "test": self.config.test,
            "prepared": "no" if self.preparation_jobs() else "yes",
            "folder": str(self.folder),
            "licence": "free of rights; soundfont TimGM6mb GPL-2.0",
            "source": "rendered here, no download",
        }

    def verify(self) -> list[str]:
        """Return one line for every file that is missing or damaged."""
        return verify(self.folder)

    def setup(self, stage: str | None = None) -> None:
        """Build the data sets of a stage."""
        for split in _STAGES[stage]:
            self._dataset(split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training batches, in an order that follows from seed and epoch."""
        dataset = self._dataset("train")
        sampler = PairedBatchSampler(len(dataset), self.batch_size, self.seed, self.batches_per_epoch)
        return clip_loader(dataset, self.batch_size, self.num_workers, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return all validation clips in the manifest's order."""
        return clip_loader(self._dataset("validation"), self.batch_size, self.num_workers)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return all test clips in the manifest's order."""
        return clip_loader(self._dataset("test"), self.batch_size, self.num_workers)

    def _tracks(self, split: LabelledSplit) -> list[Track]:
        tracks = self.manifest.split(split)
        return [tracks[index] for index in self.train_indices] if split == "train" else tracks

    def _dataset(self, split: LabelledSplit) -> ClipDataset:
        if split not in self._datasets:
            tracks, clips = self._tracks(split), self.clips(split)
            if self.target == "notes":
                dataset = ClipDataset(clips, notes=[track_notes(track) for track in tracks])
            else:
                dataset = ClipDataset(clips, targets=_targets(tracks, self.target))
            dataset.attach(self._front_end, self._features)
            self._datasets[split] = dataset
        return self._datasets[split]


def track_notes(track: Track) -> Tensor:
    """Return the notes of all pitched parts of a track, as in ``NoteBatch``."""
    pitched = [note[1:] for note in track.notes if not track.parts[int(note[0])]["is_drum"]]
    rows = merge_notes(clip_notes(np.array(pitched), track.seconds))
    return torch.from_numpy(rows).float()


def _targets(tracks: Sequence[Track], target: Target) -> Tensor:
    if target == "instruments":
        rows = [[float(tag in track.families) for tag in TAGS] for track in tracks]
        return torch.tensor(rows).reshape(-1, len(TAGS))
    if target == "key":
        return torch.tensor([KEYS.index(track.key) for track in tracks], dtype=torch.long)
    return torch.tensor([[math.log2(track.tempo / TEMPO_CENTRE)] for track in tracks]).reshape(-1, 1)
