"""Batches for pre-training: segments of recordings without end.

The n-th visit to the data, and so the n-th batch, is a function of seed and n alone: neither the number of worker
processes nor an interruption changes it.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from sonido_bench.clips import Clip
from sonido_bench.datamodules.augmentation import Augmentation, AugmentationConfig
from sonido_bench.datamodules.recordings import AudioSource, read_track
from sonido_bench.errors import ConfigError, DataError

__all__ = ["HeldOutSegments", "RandomSegments", "StepDataModule", "StepSampler"]

_SPEED_MARGIN = 1.0025  # a change of speed is up to 4 cents off


class RandomSegments(Dataset[Tensor]):
    """Segments of the training recordings; item ``n`` is the n-th visit: several segments of one recording.

    Recordings come in random permutations that follow one another without end. Each segment has a place and an
    augmentation of its own. A recording shorter than a segment is filled up with zeros; one that cannot be read is
    replaced by the next, with a warning.

    Args:
        source: The recordings.
        augmentation: What happens to them.
        samples: Length of a segment, at ``sample_rate``.
        sample_rate: In Hz.
        crops: Segments of a visit.
        seed: Decides all that is random.
    """

    def __init__(
        self,
        source: AudioSource,
        augmentation: AugmentationConfig,
        samples: int,
        sample_rate: int,
        crops: int,
        seed: int,
    ) -> None:
        self.source = source
        self.augmentation = augmentation
        self.samples = samples
        self.sample_rate = sample_rate
        self.crops = crops
        self.seed = seed
        self._order: tuple[int, list[str]] = (-1, [])
        self._warned: set[str] = set()

    def __getitem__(self, visit: int) -> Tensor:
        """Return a visit's segments, ``(crops, samples)`` float32."""
        for place in range(visit, visit + 1 + len(self.source.training)):
            name = self._name(place)
            try:
                return self._read(self.source.clip(name), np.random.default_rng((self.seed, 1, visit)))
            except DataError as error:
                if name not in self._warned:
                    print(f"warning: left out: {error}", file=sys.stderr)
                    self._warned.add(name)
        raise DataError("no recording of the training data can be read; see the warnings")

    def _name(self, visit: int) -> str:
        turn, place = divmod(visit, len(self.source.training))
        if self._order[0] != turn:
            order = np.random.default_rng((self.seed, 0, turn)).permutation(len(self.source.training))
            self._order = turn, [self.source.training[index] for index in order]
        return self._order[1][place]

    def _read(self, clip: Clip, rng: np.random.Generator) -> Tensor:
        return torch.stack([self._segment(clip, rng) for _ in range(self.crops)])

    def _segment(self, clip: Clip, rng: np.random.Generator) -> Tensor:
        augmentation, place = self.augmentation.draw(rng), rng.random()
        wanted = self.samples / self.sample_rate * augmentation.speed * _SPEED_MARGIN
        seconds = min(wanted, clip.seconds)
        part = Clip(clip.name, clip.path, clip.sha256, place * (clip.seconds - seconds), seconds)
        segment = read_track(part, self.sample_rate, augmentation)[: self.samples]
        return F.pad(segment, (0, self.samples - len(segment)))


class HeldOutSegments(Dataset[Tensor]):
    """The middle of each recording that is held out, unchanged; ``(1, samples)`` float32.

    Args:
        source: The recordings.
        samples: Length of a segment, at ``sample_rate``; shorter recordings are filled up with zeros.
        sample_rate: In Hz.
    """

    def __init__(self, source: AudioSource, samples: int, sample_rate: int) -> None:
        self.source = source
        self.samples = samples
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        """Return the number of recordings."""
        return len(self.source.validation)

    def __getitem__(self, index: int) -> Tensor:
        """Return the segment of one recording."""
        clip = self.source.clip(self.source.validation[index])
        seconds = min(self.samples / self.sample_rate, clip.seconds)
        part = Clip(clip.name, clip.path, clip.sha256, (clip.seconds - seconds) / 2, seconds)
        segment = read_track(part, self.sample_rate, Augmentation())[: self.samples]
        return F.pad(segment, (0, self.samples - len(segment)))[None]


class StepSampler(Sampler[list[int]]):
    """Batches of visit numbers without end: batch ``step`` holds the same visits whenever it is drawn.

    Args:
        visits: Of a batch, on this process.
        start: Step to begin with.
        rank: Number of this process.
        processes: How many train together; each gets visits of its own.
    """

    def __init__(self, visits: int, start: int = 0, rank: int = 0, processes: int = 1) -> None:
        self.visits = visits
        self.start = start
        self.rank = rank
        self.processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the visits of one step after another."""
        step = self.start
        while True:
            first = (step * self.processes + self.rank) * self.visits
            yield list(range(first, first + self.visits))
            step += 1


class StepDataModule(pl.LightningDataModule):
    """Endless training batches that begin at the trainer's step, and validation batches.

    Args:
        training: Item ``n`` is visit ``n``: tensors, or mappings of them, with ``crops`` rows.
        validation: Of a known length; rows as above.
        batch_size: Rows of a batch, on each process.
        crops: Rows of a training item; divides ``batch_size``.
        num_workers: Processes that make training items; 0: this one.

    Raises:
        ConfigError: If ``crops`` does not divide ``batch_size``.
    """

    def __init__(
        self, training: Dataset[Any], validation: Dataset[Any], batch_size: int, crops: int, num_workers: int
    ) -> None:
        super().__init__()
        if batch_size < 1 or crops < 1 or batch_size % crops:
            raise ConfigError(f"crops must divide batch_size, got {crops} and {batch_size}")
        self.training = training
        self.validation = validation
        self.batch_size = batch_size
        self.crops = crops
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches from the trainer's step on."""
        assert self.trainer is not None  # Lightning calls this
        return self.batches(self.trainer.global_step, self.trainer.global_rank, self.trainer.world_size)

    def batches(self, start: int = 0, rank: int = 0, processes: int = 1) -> DataLoader[Any]:
        """Return the training batches from a step on."""
        return DataLoader(
            self.training,
            batch_sampler=StepSampler(self.batch_size // self.crops, start, rank, processes),
            collate_fn=_join,
            num_workers=self.num_workers,
            multiprocessing_context="spawn" if self.num_workers else None,
            worker_init_fn=_one_thread,
            prefetch_factor=4 if self.num_workers else None,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation batches."""
        return DataLoader(self.validation, batch_size=self.batch_size, collate_fn=_join)


def _join(items: Sequence[Any]) -> Any:
    """Concatenate the rows of items."""
    if isinstance(items[0], Tensor):
        return torch.cat(list(items))
    return {name: torch.cat([item[name] for item in items]) for name in items[0]}


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)  # the training process has a core of its own to keep
