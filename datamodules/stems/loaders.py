"""Batches of stems in an order that follows from seed and step alone, so that all arms share it."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Sampler

from sonido_bench.datamodules.base import PairedBatchSampler
from sonido_bench.datamodules.stem_augmentation import AugmentedStems
from sonido_bench.datamodules.stems.clips import StemClips
from sonido_bench.errors import ConfigError

__all__ = ["VisitSampler", "evaluation_loader", "training_loader"]

_Batch = TypeVar("_Batch")


class VisitSampler(Sampler[list[int]]):
    """Batches of visit numbers: batch ``b`` of epoch ``e`` holds the same visits whatever came before.

    Args:
        batch_size: Visits of a batch, on this process.
        batches: Per epoch.
        rank: Number of this process.
        processes: How many train together; each gets visits of its own.
    """

    def __init__(self, batch_size: int, batches: int, rank: int = 0, processes: int = 1) -> None:
        self.batch_size = batch_size
        self.batches = batches
        self.rank = rank
        self.processes = processes
        self.epoch = 0

    @property
    def sampler(self) -> "VisitSampler":
        """Itself: Lightning calls ``set_epoch`` of a batch sampler's ``sampler``, not of the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is drawn next; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch."""
        for step in range(self.epoch * self.batches, (self.epoch + 1) * self.batches):
            first = (step * self.processes + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def training_loader(
    dataset: StemClips | AugmentedStems,
    batch_size: int,
    num_workers: int,
    seed: int,
    batches: int | None,
    rank: int = 0,
    processes: int = 1,
) -> DataLoader[Any]:
    """Return the training batches.

    Args:
        dataset: Fixed clips, or clips drawn anew for each visit.
        batch_size: Clips of a batch, on each process.
        num_workers: Processes that read audio.
        seed: Decides the order of fixed clips.
        batches: Per epoch; ``None``: as many as see each fixed clip, or as much audio as the tracks hold, once.
        rank: Number of this process, for drawn clips.
        processes: How many train together, for drawn clips.

    Raises:
        ConfigError: If there is no clip, or a batch cannot be remixed in groups.
    """
    if isinstance(dataset, AugmentedStems):
        dataset.check_batch_size(batch_size)
        per_epoch = batches or -(-dataset.segments // (batch_size * processes))
        return _loader(dataset, VisitSampler(batch_size, per_epoch, rank, processes), num_workers)
    if not dataset.clips:
        raise ConfigError("no training track is as long as a segment; lower segment_seconds")
    return _loader(dataset, PairedBatchSampler(len(dataset), batch_size, seed, batches), num_workers)


def evaluation_loader(dataset: StemClips, batch_size: int, num_workers: int) -> DataLoader[Any]:
    """Return all clips in their order, in batches of clips of one length."""
    return _loader(dataset, dataset.in_order(batch_size), num_workers)


def _loader(dataset: StemClips | AugmentedStems, batches: Iterable[list[int]], num_workers: int) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_identity,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def _identity(batch: _Batch) -> _Batch:
    return batch  # the data set has made a batch of it already
