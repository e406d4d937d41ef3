"""Fixed parts of tracks, given out as whole batches, with cached features if there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonido_bench.batches import StemBatch
from sonido_bench.clips import Clip
from sonido_bench.datamodules.base import CachedStreams
from sonido_bench.datamodules.stems.batch import StemFormat, downmix
from sonido_bench.datamodules.stems.track import StemTrack, grid
from sonido_bench.errors import CacheError, ConfigError

__all__ = ["StemClip", "StemClips", "evaluation_clips", "training_clips"]


@dataclass(frozen=True)
class StemClip:
    """A part of a track.

    Attributes:
        track: The track.
        start: First sample, at the data set's rate.
        samples: Length.
        whole: Whether it is the track's only clip, and so has its name.
        sample_rate: The data set's, in Hz.
    """

    track: StemTrack
    start: int
    samples: int
    whole: bool
    sample_rate: int

    @property
    def name(self) -> str:
        """Unique in the data set."""
        return self.track.name if self.whole else f"{self.track.name} @ {self.start / self.sample_rate:.2f} s"

    @property
    def feature_clip(self) -> Clip:
        """The part of the file whose features belong to the clip.

        Raises:
            ConfigError: If the track has no such file.
        """
        heard = self.track.heard
        if heard is None:
            raise ConfigError(
                f"track {self.track.name} has no file whose features could be cached (in separation its mixture, in "
                "mixing a downmix of its stems); extract features online, or add the file"
            )
        start, seconds = self.start / self.sample_rate, self.samples / self.sample_rate
        excess = start + seconds - heard.frames / heard.sample_rate
        if 0 < excess < 1 / self.sample_rate:  # a track's length at a lower rate is rounded up
            seconds -= excess
        return Clip(self.name, heard.path, heard.sha256, start, seconds)


def training_clips(tracks: Sequence[StemTrack], seconds: float | None, sample_rate: int) -> list[StemClip]:
    """Return the segments of tracks, one after another; a remainder at a track's end is left out.

    Args:
        tracks: A track that is shorter than a segment has none.
        seconds: Length of a segment; ``None`` for whole tracks.
        sample_rate: In Hz.
    """
    if seconds is None:
        return [StemClip(track, 0, track.samples(sample_rate), True, sample_rate) for track in tracks]
    length = round(seconds * sample_rate)
    counts = [(track, track.samples(sample_rate) // length) for track in tracks]
    return [
        StemClip(track, index * length, length, count == 1, sample_rate)
        for track, count in counts
        for index in range(count)
    ]


def evaluation_clips(tracks: Sequence[StemTrack], seconds: float | None, sample_rate: int) -> list[StemClip]:
    """Return the chunks of tracks as ``grid`` makes them: all of each track, however long, in bounded pieces.

    Args:
        tracks: The tracks.
        seconds: Length of a chunk; ``None`` for whole tracks.
        sample_rate: In Hz.
    """
    clips = []
    for track in tracks:
        total = track.samples(sample_rate)
        places = [(0, total)] if seconds is None else grid(total, round(seconds * sample_rate))
        clips += [StemClip(track, start, samples, len(places) == 1, sample_rate) for start, samples in places]
    return clips


class StemClips(Dataset[StemBatch]):
    """Clips with stems and mixture as they are in the files.

    Batches carry ``audio``, for the foundation model to hear, until ``attach`` brings cached streams. A batch holds
    clips of one length: see ``in_order``.

    Args:
        clips: What is given out.
        format: How.
    """

    augmented = False

    def __init__(self, clips: Sequence[StemClip], format: StemFormat) -> None:
        self.clips = list(clips)
        self.format = format
        self._front_end: CachedStreams | None = None
        self._features: CachedStreams | None = None

    def attach(self, front_end: CachedStreams | None, features: CachedStreams | None) -> None:
        """Let batches carry cached streams; two ``None`` bring the audio back.

        Raises:
            CacheError: If a clip has no streams.
        """
        for cached in (front_end, features):
            absent = [] if cached is None else [clip.name for clip in self.clips if clip.name not in cached]
            if absent:
                raise CacheError(f"the cache has no {absent[0]!r}; extract the features of this data set again")
        self._front_end, self._features = front_end, features

    def in_order(self, batch_size: int) -> list[list[int]]:
        """Return batches of all clips in their order, each of clips of one length."""
        batches = []
        for _, equal in groupby(range(len(self.clips)), key=lambda index: self.clips[index].samples):
            places = list(equal)
            batches += [places[first : first + batch_size] for first in range(0, len(places), batch_size)]
        return batches

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips)

    def __getitem__(self, index: int) -> StemBatch:
        """Return a batch of one clip."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> StemBatch:
        """Return a batch of the clips of these numbers.

        Raises:
            DataError: If a file cannot be read.
        """
        clips = [self.clips[index] for index in indices]
        parts = [clip.track.read(clip.start, clip.samples, self.format) for clip in clips]
        stems, mixtures = (torch.stack(items) for items in zip(*parts, strict=True))
        rate = self.format.sample_rate
        batch = StemBatch(
            clip=[clip.name for clip in clips],
            seconds=clips[0].samples / rate,
            sample_rate=rate,
            track=[clip.track.name for clip in clips],
            start=[clip.start / rate for clip in clips],
            stem_names=self.format.names,
            stems=stems,
            mixture=mixtures,
            augmented=False,
        )
        if self._front_end is None and self._features is None:
            batch["audio"] = mixtures if self.format.target == "stems" else downmix(stems)
        if self._front_end is not None:
            batch["front_end"] = _gather(self._front_end, batch["clip"])
        if self._features is not None:
            batch["features"] = _gather(self._features, batch["clip"])
        return batch


def _gather(cached: Mapping[str, Mapping[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    items = [cached[name] for name in names]
    return {stream: _stack([item[stream] for item in items], names) for stream in items[0]}


def _stack(streams: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """Stack ``(frames, dim)`` streams; clips of one length may differ by a frame if their files differ in rate."""
    lengths = [len(stream) for stream in streams]
    frames = min(lengths)
    if max(lengths) - frames > 1:
        raise CacheError(f"cached streams of {', '.join(names)} have {lengths} frames; extract the features again")
    return torch.stack([stream[:frames] for stream in streams]).float()
