"""Files of Jukebox's weights, whoever wrote them: tensors by name, read when they are needed."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sonido_bench.errors import DataError
from sonido_bench.files import sha256_file, sha256_json
from sonido_bench.foundation.checkpoint import stored_shapes
from sonido_bench.foundation.jukebox.keys import Layout
from sonido_bench.foundation.jukebox.pickled_checkpoint import read_pickle
from sonido_bench.foundation.jukebox.weight_cache import is_cached, read_cached

__all__ = ["WeightFiles", "source_sha256"]

_REMEDY = "fetch the file again"
_INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_MAX_INDEX_BYTES = 10_000_000


class WeightFiles:
    """The tensors of one file, or of a folder in Hugging Face's form, of one file or several.

    Of safetensors and of zipped pickles, headers alone are read at first.

    Args:
        source: A file of safetensors or a pickle, in OpenAI's layout or Hugging Face's; or a folder with
            ``model.safetensors`` or ``pytorch_model.bin``, or with parts and the index of either.

    Attributes:
        files: That hold the weights.
        layout: By their names.

    Raises:
        DataError: If there are none, or they are damaged.
    """

    def __init__(self, source: Path) -> None:
        self.files = _files(source)
        self._pickled: dict[str, Tensor] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._safe: dict[str, Path] = {}
        for file in self.files:
            shapes = self._open(file)
            if twice := shapes.keys() & self._shapes.keys():
                raise DataError(f"{file}: {min(twice)} is in another file too; {_REMEDY}")
            self._shapes |= shapes
        prefixed = any(name.startswith(("vqvae.", "priors.")) for name in self._shapes)
        self.layout: Layout = "hugging_face" if prefixed else "official"

    def shapes(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """Return names, less a prefix that they must have, and shapes."""
        return {name.removeprefix(prefix): shape for name, shape in self._shapes.items() if name.startswith(prefix)}

    def take(self, name: str) -> Tensor:
        """Read a tensor, once: a pickled one is let go, so that its memory is free when its user has done with it."""
        if name in self._pickled:
            return self._pickled.pop(name)
        try:
            with safe_open(self._safe[name], framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor
        except (OSError, SafetensorError, ValueError) as error:
            raise DataError(f"{self._safe[name]}: tensor {name} cannot be read: {error}; {_REMEDY}") from error

    def keep(self, names: Collection[str]) -> None:
        """Let go of pickled tensors other than these."""
        self._pickled = {name: tensor for name, tensor in self._pickled.items() if name in names}

    def _open(self, file: Path) -> Mapping[str, tuple[int, ...]]:
        if file.suffix == ".safetensors":
            shapes = stored_shapes(file)
            self._safe |= dict.fromkeys(shapes, file)
            return shapes
        tensors = read_pickle(file)
        self._pickled |= tensors
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def source_sha256(source: Path) -> str:
    """Return what names weights among all others.

    Args:
        source: As for ``WeightFiles``, or a folder of a cache.

    Returns:
        The SHA-256 of a file, or of the names and sums of several; of a cache's folder, that of what it was made from.

    Raises:
        DataError: If there are no files, or the cached ones are damaged.
    """
    if is_cached(source):
        return read_cached(source).source_sha256
    sums = {file.name: sha256_file(file) for file in _files(source)}
    return next(iter(sums.values())) if source.is_file() else sha256_json(sums)


def _files(source: Path) -> tuple[Path, ...]:
    if source.is_file():
        return (source,)
    for whole, index in zip(_WHOLE, _INDEXED, strict=True):
        if (source / whole).is_file():
            return (source / whole,)
        if (source / index).is_file():
            return _parts(source / index)
    raise DataError(f"{source}: expected a file, or a folder with {' or '.join(_WHOLE)} or parts and their index")


def _parts(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names: in its folder, and there."""
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise DataError(f"{index}: expected an index, found {index.stat().st_size:,} bytes; {_REMEDY}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        inside = bool(names) and all(name == Path(name).name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{index}: expected a weight_map of tensors to files; {_REMEDY}") from error
    if not inside or {Path(name).suffix for name in names} - {".safetensors", ".bin"}:
        raise DataError(f"{index}: expected names of .safetensors or .bin files in the same folder, found {names[:3]}")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise DataError(f"{index.parent}: {len(missing)} of {len(names)} parts are missing ({missing[0]}); fetch them")
    return tuple(index.parent / name for name in names)
