"""What every datamodule needs: clips as whole batches, and an order of training that all arms share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sonido_bench.audio import load_clip
from sonido_bench.batches import AudioBatch, NoteBatch, TargetBatch
from sonido_bench.clips import Clip
from sonido_bench.errors import CacheError, ConfigError

__all__ = ["CachedStreams", "ClipDataset", "PairedBatchSampler", "clip_loader", "training_subset"]

CachedStreams = Mapping[str, Mapping[str, Tensor]]
"""Name of a clip to its streams, each ``(frames, dim)``, all clips of the same number of frames."""

Batch = TargetBatch | NoteBatch
_Item = TypeVar("_Item")


def training_subset(size: int, fraction: float, seed: int) -> list[int]:
    """Return which training items a run sees: the first share of a random order, so that larger shares hold smaller.

    Args:
        size: Number of items.
        fraction: Share in (0, 1]; rounded up to whole items.
        seed: Decides the order.

    Raises:
        ConfigError: If ``fraction`` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction must be in (0, 1], got {fraction}")
    order = np.random.default_rng(seed).permutation(size)
    return [int(index) for index in order[: int(np.ceil(round(fraction * size, 9)))]]


class ClipDataset(Dataset[Batch]):
    """Clips with their targets or notes, given out as whole batches.

    A batch holds ``audio``, read from the files, until ``attach`` brings cached streams; those are stacked once, so
    that a batch of them is a single gather.

    Args:
        clips: All of one length.
        targets: One row per clip, for ``TargetBatch``; or
        notes: one ``(notes, 4)`` tensor per clip, for ``NoteBatch``.

    Raises:
        ValueError: If not exactly one of ``targets`` and ``notes`` is given, or its length is not the clips'.
    """

    def __init__(
        self, clips: Sequence[Clip], *, targets: Tensor | None = None, notes: Sequence[Tensor] | None = None
    ) -> None:
        labels = targets if targets is not None else notes
        if labels is None or (targets is not None and notes is not None):
            raise ValueError("expected either targets or notes")
        if len(labels) != len(clips):
            raise ValueError(f"expected labels of {len(clips)} clips, got {len(labels)}")
        self.clips = list(clips)
        self.targets = targets
        self.notes = notes
        self._front_end: dict[str, Tensor] | None = None
        self._features: dict[str, Tensor] | None = None

    @property
    def cached(self) -> bool:
        """Whether batches carry cached streams instead of audio."""
        return self._front_end is not None or self._features is not None

    def attach(self, front_end: CachedStreams | None, features: CachedStreams | None) -> None:
        """Let batches carry cached streams; two ``None`` bring the audio back.

        Raises:
            CacheError: If a clip has no streams, or they differ in shape from the other clips'.
        """
        self._front_end = None if front_end is None else _stack(self.clips, front_end)
        self._features = None if features is None else _stack(self.clips, features)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips)

    def __getitem__(self, index: int) -> Batch:
        """Return a batch of one clip."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a batch of the clips of these numbers."""
        batch: AudioBatch = {
            "clip": [self.clips[index].name for index in indices],
            "seconds": self.clips[indices[0]].seconds,
        }
        chosen = torch.tensor(indices)
        if self._front_end is not None:
            batch["front_end"] = _gather(self._front_end, chosen)
        if self._features is not None:
            batch["features"] = _gather(self._features, chosen)
        if not self.cached:
            audio, rates = zip(*(load_clip(self.clips[index]) for index in indices), strict=True)
            batch["audio"], batch["sample_rate"] = torch.stack(audio), rates[0]
        if self.notes is not None:
            return NoteBatch(**batch, notes=[self.notes[index] for index in indices])
        assert self.targets is not None  # __init__ saw to it
        return TargetBatch(**batch, target=self.targets[chosen])


class PairedBatchSampler(Sampler[list[int]]):
    """Batches in an order that follows from seed and epoch alone, whatever the arm and whatever was drawn before.

    Random permutations of all items follow one another without end and are cut into batches of exactly
    ``batch_size``, so that few items fill batches too, and each item is seen equally often up to one.

    Args:
        size: Number of items, at least 1.
        batch_size: Items of a batch.
        seed: Decides the order.
        batches: Per epoch; ``None`` for as many as see each item at least once.
    """

    def __init__(self, size: int, batch_size: int, seed: int, batches: int | None = None) -> None:
        if size < 1 or batch_size < 1 or (batches is not None and batches < 1):
            raise ConfigError(
                f"expected at least one item, batch and item a batch, got {size}, {batches}, {batch_size}"
            )
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.batches = -(-size // batch_size) if batches is None else batches
        self.epoch = 0

    @property
    def sampler(self) -> "PairedBatchSampler":
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
        length = self.batches * self.batch_size
        turn, skipped = divmod(self.epoch * length, self.size)
        turns = range(turn, turn + -(-(skipped + length) // self.size))
        order = np.concatenate([np.random.default_rng((self.seed, turn)).permutation(self.size) for turn in turns])
        for batch in order[skipped : skipped + length].reshape(self.batches, self.batch_size):
            yield batch.tolist()


def clip_loader(
    dataset: ClipDataset, batch_size: int, num_workers: int, sampler: PairedBatchSampler | None = None
) -> DataLoader[Batch]:
    """Return a loader of whole batches: in the sampler's order, or without one all clips in theirs.

    Cached streams lie in memory: they are given out by this process, whatever ``num_workers`` says.
    """
    workers = 0 if dataset.cached else num_workers
    batches = sampler if sampler is not None else _in_order(len(dataset), batch_size)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_identity,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def _in_order(size: int, batch_size: int) -> list[list[int]]:
    return [list(range(start, min(start + batch_size, size))) for start in range(0, size, batch_size)]


def _identity(batch: _Item) -> _Item:
    return batch  # the data set has made a batch of it already


def _stack(clips: Sequence[Clip], cached: CachedStreams) -> dict[str, Tensor]:
    try:
        items = [cached[clip.name] for clip in clips]
        return {stream: torch.stack([item[stream] for item in items]) for stream in items[0]} if items else {}
    except KeyError as error:
        raise CacheError(f"the cache has no {error}; extract the features of this data set again") from error
    except RuntimeError as error:
        raise CacheError(f"cached streams differ in shape: {error}; extract the features again") from error


def _gather(streams: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    return {stream: values.index_select(0, chosen).float() for stream, values in streams.items()}
