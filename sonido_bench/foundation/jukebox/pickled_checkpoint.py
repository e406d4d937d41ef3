"""Weights in PyTorch's pickled formats, read without running anything that they may hold."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonido_bench.errors import DataError

__all__ = ["read_pickle"]

_REMEDY = "fetch the file again, or check that it is what you meant"


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the weights of a pickled checkpoint, as they are stored.

    PyTorch unpickles tensors and plain containers alone (``weights_only``); anything else that a file asks for is
    refused, and nothing of it is run. A file in PyTorch's zip format is mapped into memory, and takes some only as its
    tensors are used. The older format, which OpenAI's files are in, cannot be mapped: all of it is read, but no more
    than once; remove tensors from the result as they are used.

    Args:
        path: A dictionary of tensors, or one with such a dictionary under ``model``, beside which the state of a
            training may stand; it is let go. Prefixes ``module.``, of a distributed training, are taken off.

    Returns:
        Tensors on the CPU by name.

    Raises:
        DataError: If the file is empty, truncated, something else, or would have to run code.
    """
    if not path.stat().st_size:
        raise DataError(f"{path}: expected weights, found an empty file; {_REMEDY}")
    content = _unpickled(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path}: expected a dictionary of weights, found {type(content).__name__}; {_REMEDY}")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        name = key.removeprefix("module.") if isinstance(key, str) else ""
        if not name or name in state or not _is_plain(value):
            raise DataError(
                f"{path}: expected named tensors, found {str(key)[:80]!r}: {type(value).__name__}; {_REMEDY}"
            )
        state[name] = value.detach()
    return state


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        if zipped and not zipfile.is_zipfile(path):
            raise EOFError("the end of the archive is missing")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: expected tensors alone, found a truncated file, or one that could run code, which is never done: "
            f"{_first_line(error)}; {_REMEDY}"
        ) from error
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise DataError(
            f"{path}: expected weights, found a truncated or foreign file: {_first_line(error)}; {_REMEDY}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a dense tensor with its numbers in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )
