"""Features extracted once and kept on disk."""

import random
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from sonido_bench.audio import read_clip, to_mono
from sonido_bench.clips import Clip
from sonido_bench.errors import CacheError
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.shards import open_shard, write_shard
from sonido_bench.features.spec import FeatureSpec
from sonido_bench.files import sha256_json

__all__ = ["CachedStreams", "FeatureCache"]

_SCHEMA = 1
_HEADER_BYTES = 256  # of a tensor in a shard: name, type, shape, place, checksum
_STALE_SECONDS = 3600  # age at which a temporary file must be a dead writer's


class FeatureCache:
    """Features of clips in safetensors shards, one folder per extractor fingerprint.

    A key is the SHA-256 of the extractor's fingerprint (class, configuration, weights), the audio file's content,
    start, length, data type and this format's version: whatever changes the features changes the key. Shards are
    written whole or not at all under names of their own, so several processes may write at once, and an interrupted
    extraction goes on with what is missing.

    Args:
        root: Folder of the cache; made when first written to.
        dtype: In which values are stored; they are read as float32.

    Raises:
        CacheError: If the data type is not float16, bfloat16 or float32.
    """

    def __init__(self, root: Path, dtype: torch.dtype = torch.float16) -> None:
        if dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise CacheError(f"expected a cache of float16, bfloat16 or float32, got {dtype}")
        self.root = Path(root)
        self.dtype = dtype

    def key(self, fingerprint: str, clip: Clip) -> str:
        """Return under which key a clip's features are stored; the clip's name and path play no part."""
        return sha256_json([_SCHEMA, fingerprint, clip.sha256, clip.start, clip.seconds, str(self.dtype)])

    def estimate_bytes(self, spec: FeatureSpec, clips: Sequence[Clip]) -> int:
        """Return the disk space that the clips' features will take, within a few per cent."""
        total = 0
        for clip in clips:
            samples = round(clip.seconds * spec.sample_rate)
            for name, stream in spec.streams.items():
                total += spec.frames(name, samples) * stream.dim * self.dtype.itemsize + _HEADER_BYTES
        return total

    def missing(self, fingerprint: str, clips: Sequence[Clip]) -> list[Clip]:
        """Return the clips that have no features yet, in their order; a damaged shard is reported and not counted."""
        index = self._index(fingerprint)
        return [clip for clip in clips if self.key(fingerprint, clip) not in index]

    def extract(
        self,
        extractor: Extractor,
        clips: Sequence[Clip],
        batch_size: int = 8,
        clips_per_shard: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Extract what is missing, on the extractor's device; an interruption loses at most one shard.

        Args:
            extractor: The frozen model.
            clips: All that are wanted; those that are there already cost nothing.
            batch_size: Clips of equal length that are run together.
            clips_per_shard: Clips per file.
            progress: Called with (clips done, clips to do) after each shard.

        Returns:
            How many clips were extracted.

        Raises:
            CacheError: If the folder cannot be written, has too little space, or a value does not fit the data type.
            DataError: If a clip's audio cannot be read.
        """
        fingerprint = extractor.fingerprint()
        distinct = {self.key(fingerprint, clip): clip for clip in clips}
        absent = self.missing(fingerprint, list(distinct.values()))
        if not absent:
            return 0
        self._prepare_folder(fingerprint, self.estimate_bytes(extractor.spec, absent))
        shards = list(_chunks(sorted(absent, key=_length), clips_per_shard))
        random.SystemRandom().shuffle(shards)  # several writers then seldom do the same work
        extracted = done = 0
        for shard in shards:
            todo = self.missing(fingerprint, shard)  # another process may have been faster
            if todo:
                self._extract_shard(extractor, fingerprint, todo, batch_size)
            extracted += len(todo)
            done += len(shard)
            if progress is not None:
                progress(done, len(absent))
        return extracted

    def streams(self, fingerprint: str, clips: Sequence[Clip]) -> "CachedStreams":
        """Return the clips' features, read from disk when asked for.

        Args:
            fingerprint: Of the extractor.
            clips: All of which must have been extracted.

        Raises:
            CacheError: If a clip's features are not there.
        """
        index = self._index(fingerprint)
        keys = {clip.name: self.key(fingerprint, clip) for clip in clips}
        absent = [name for name, key in keys.items() if key not in index]
        if absent:
            raise CacheError(
                f"{self._folder(fingerprint)}: expected features of {len(keys)} clips, {len(absent)} are missing "
                f"(first: {absent[0]}); extract them first"
            )
        return CachedStreams({name: (index[key], key) for name, key in keys.items()})

    def _folder(self, fingerprint: str) -> Path:
        return self.root / fingerprint[:16]

    def _index(self, fingerprint: str) -> dict[str, Path]:
        """Key to shard, over all readable shards."""
        index: dict[str, Path] = {}
        for path in sorted(self._folder(fingerprint).glob("[!.]*.safetensors")):
            try:
                index.update(dict.fromkeys(open_shard(path).keys, path))
            except CacheError as error:
                warnings.warn(f"ignored {error}", stacklevel=3)
        return index

    def _prepare_folder(self, fingerprint: str, expected_bytes: int) -> None:
        """Make the folder, sweep out what killed writers left, and see whether there is room."""
        folder = self._folder(fingerprint)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*"):
                if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                    leftover.unlink()
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise CacheError(f"{folder}: cannot write the feature cache ({error}); choose another folder") from error
        if expected_bytes > free:
            raise CacheError(
                f"{folder}: the features need about {expected_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
                "make room or choose another folder"
            )

    def _extract_shard(self, extractor: Extractor, fingerprint: str, clips: Sequence[Clip], batch_size: int) -> None:
        items: dict[str, dict[str, Tensor]] = {self.key(fingerprint, clip): {} for clip in clips}
        for _, equal_length in groupby(clips, key=_length):
            for batch in _chunks(list(equal_length), batch_size):
                audio = torch.stack([to_mono(read_clip(clip, extractor.spec.sample_rate)) for clip in batch])
                for stream, values in extractor.extract(audio.to(extractor.device)).items():
                    for clip, frames in zip(batch, values.cpu(), strict=True):
                        items[self.key(fingerprint, clip)][stream] = self._stored(frames, clip, stream)
        path = self._folder(fingerprint) / f"{uuid.uuid4().hex}.safetensors"
        metadata = {"schema": str(_SCHEMA), "extractor": extractor.card.name, "fingerprint": fingerprint}
        write_shard(path, items, metadata)

    def _stored(self, frames: Tensor, clip: Clip, stream: str) -> Tensor:
        """Convert to the cache's type, refusing what would be stored as infinity or NaN."""
        stored = frames.to(self.dtype, copy=True).contiguous()
        if not torch.isfinite(stored).all():
            raise CacheError(
                f"{clip.path}: stream {stream} of clip {clip.name} has NaN or values beyond {self.dtype} "
                f"(largest {frames.abs().max().item():g}); mend the extractor or use a cache of float32"
            )
        return stored


class CachedStreams(Mapping[str, dict[str, Tensor]]):
    """Features by the clips' names; an item is read, checked and made float32 when asked for.

    May be handed to the workers of a data loader, forked or spawned: open files are not part of it.

    Args:
        places: Shard and key of each clip.
    """

    def __init__(self, places: Mapping[str, tuple[Path, str]]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        """Return stream -> ``(frames, dim)`` float32 of a clip.

        Raises:
            CacheError: If the shard was removed or damaged.
        """
        path, key = self._places[name]
        return open_shard(path).read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _length(clip: Clip) -> float:
    return clip.seconds


def _chunks(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    return (clips[start : start + size] for start in range(0, len(clips), size))
