"""One runner per results folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sonido_bench.errors import ResultError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the kernel lets go of it however the process ends.

    Raises:
        ResultError: If the folder cannot be written, or another process holds it.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise ResultError(
            f"cannot write results to {folder}: {error.strerror}; choose another --results folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise ResultError(
                f"process {file.read().strip() or '?'} is running in {folder}; "
                "wait for it, or choose another --results folder"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
