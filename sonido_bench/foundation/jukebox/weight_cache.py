"""A prior's weights as safetensors of our own, cut to the layers in use: read faster, and never more than is needed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from sonido_bench.errors import DataError
from sonido_bench.files import atomic_path, sha256_file, write_json

__all__ = ["CachedWeights", "WeightCache", "is_cached", "read_cached", "weights_file"]

_WEIGHTS, _RECORD, _SCHEMA = "weights.safetensors", "weights.json", 1
_LICENCE = "OpenAI's Noncommercial Use License, if the source is OpenAI's"
_MAX_RECORD_BYTES = 100_000


@dataclass(frozen=True)
class CachedWeights:
    """What is recorded beside cached weights.

    Attributes:
        prior: Name of its configuration.
        depth: Blocks that are there.
        source_sha256: Of the file that they were read from.
        weights_sha256: Of the cached file.
        weights_bytes: Its size.
        licence: Of the weights.
        schema: Of this record.
    """

    prior: str
    depth: int
    source_sha256: str
    weights_sha256: str
    weights_bytes: int
    licence: str = _LICENCE
    schema: int = _SCHEMA


class WeightCache:
    """Folders of cached weights, one for each source, prior and depth.

    Args:
        root: Where they are; is made when missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, prior: str, depth: int, source_sha256: str) -> Path:
        """Return where the weights of a source are kept."""
        return self.root / f"{prior}-{depth}-{source_sha256[:16]}"

    def find(self, prior: str, depth: int, source_sha256: str) -> CachedWeights | None:
        """Return the record if whole and unchanged weights of this source are there."""
        folder = self.folder(prior, depth, source_sha256)
        try:
            record = read_cached(folder)
        except DataError:
            return None
        found = (record.prior, record.depth, record.source_sha256)
        return record if found == (prior, depth, source_sha256) else None

    def write(self, prior: str, depth: int, source_sha256: str, state: Mapping[str, Tensor]) -> CachedWeights:
        """Keep weights; the record is written last, and weights without one are none.

        Args:
            prior: Name of its configuration.
            depth: Blocks.
            source_sha256: Of the file that they were read from.
            state: Tensors by our names.

        Returns:
            Their record.
        """
        folder = self.folder(prior, depth, source_sha256)
        (folder / _RECORD).unlink(missing_ok=True)
        with atomic_path(folder / _WEIGHTS) as temporary:
            save_file(dict(state), temporary)
        size = (folder / _WEIGHTS).stat().st_size
        record = CachedWeights(prior, depth, source_sha256, sha256_file(folder / _WEIGHTS), size)
        write_json(folder / _RECORD, asdict(record), indent=2)
        return record


def is_cached(folder: Path) -> bool:
    """Tell whether a folder is one of a cache."""
    return (folder / _RECORD).is_file()


def weights_file(folder: Path) -> Path:
    """Return the safetensors of a folder of a cache."""
    return folder / _WEIGHTS


def read_cached(folder: Path) -> CachedWeights:
    """Read the record of a folder of a cache, and hold the weights to it.

    Raises:
        DataError: If it is no such folder, or not whole and unchanged.
    """
    weights, record = folder / _WEIGHTS, folder / _RECORD
    try:
        if record.stat().st_size > _MAX_RECORD_BYTES:
            raise ValueError("it is too long")
        cached = _parsed(json.loads(record.read_text(encoding="utf-8")))
        size = weights.stat().st_size
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{folder}: expected {_WEIGHTS} and {_RECORD} ({error}); delete the folder") from error
    if size != cached.weights_bytes:
        raise DataError(f"{weights}: expected {cached.weights_bytes:,} bytes, found {size:,}; delete the folder")
    if (found := sha256_file(weights)) != cached.weights_sha256:
        raise DataError(f"{weights}: expected SHA-256 {cached.weights_sha256}, found {found}; delete the folder")
    return cached


def _parsed(values: Any) -> CachedWeights:
    """Make a record of a file's values.

    Raises:
        TypeError: If one is missing, unknown or of another type.
        ValueError: If it is of another version.
    """
    cached = CachedWeights(**values)
    if cached.schema != _SCHEMA:
        raise ValueError(f"schema {cached.schema} instead of {_SCHEMA}")
    if any(type(getattr(cached, field.name)) is not field.type for field in fields(cached)):
        raise TypeError("a value has another type")
    return cached
