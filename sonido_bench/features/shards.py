"""One file of the feature cache: written whole or not at all, read in parts and checked."""

import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sonido_bench.errors import CacheError
from sonido_bench.files import atomic_path

__all__ = ["Shard", "open_shard", "write_shard"]


def write_shard(path: Path, items: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str]) -> None:
    """Write the streams of several clips.

    Args:
        path: Of the finished file.
        items: Key of each clip to its streams, ``(frames, dim)`` on the CPU.
        metadata: Kept in the header for people to read.

    Raises:
        CacheError: If it cannot be written; nothing is left behind.
    """
    tensors = {f"{key}/{stream}": tensor for key, streams in items.items() for stream, tensor in streams.items()}
    checksums = json.dumps({name: _crc32(tensor) for name, tensor in tensors.items()})
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={**metadata, "crc32": checksums})
    except (OSError, SafetensorError) as error:
        raise CacheError(f"{path}: cannot write the feature cache ({error}); make room and start again") from error


class Shard:
    """An open shard, memory-mapped: only what is asked for is read. Its index is the header of the file.

    Attributes:
        keys: Of the clips that it holds.

    Args:
        path: A safetensors file of :func:`write_shard`.

    Raises:
        CacheError: If the file is truncated or is no shard.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = cast(Any, safe_open(path, framework="pt"))  # its methods have no types
            self._checksums: dict[str, int] = json.loads(self._file.metadata()["crc32"])
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise self._damaged(error) from error
        self._streams: dict[str, list[str]] = {}
        for name in self._checksums:
            key, _, stream = name.partition("/")
            self._streams.setdefault(key, []).append(stream)
        self.keys = list(self._streams)

    def read(self, key: str) -> dict[str, Tensor]:
        """Return the streams of a clip as float32.

        Raises:
            CacheError: If the values are not those that were written.
        """
        return {stream: self._tensor(f"{key}/{stream}") for stream in self._streams[key]}

    def _tensor(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise self._damaged(error) from error
        if _crc32(tensor) != self._checksums[name]:
            raise self._damaged(f"checksum of {name} differs")
        return tensor.to(torch.float32, copy=True)

    def _damaged(self, why: object) -> CacheError:
        return CacheError(f"{self._path}: damaged shard of the feature cache ({why}); delete it and extract again")


def open_shard(path: Path) -> Shard:
    """Open a shard, or return it if this process has it open.

    Raises:
        CacheError: If it was removed, is truncated or is no shard.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CacheError(f"{path}: shard of the feature cache was removed ({error}); extract again") from error
    return _opened(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _opened(path: Path, size: int, modified: int) -> Shard:
    """Size and time are part of the key: a file that shrank under its memory map would end the process."""
    return Shard(path)


def _crc32(tensor: Tensor) -> int:
    return zlib.crc32(tensor.view(torch.uint8).numpy().data)
