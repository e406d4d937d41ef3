"""Jobs for the pool's tests: importable, so that a worker process can unpickle them."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WriteJob:
    path: Path
    seconds: float = 0.0

    @property
    def label(self) -> str:
        return self.path.name

    def __call__(self) -> None:
        time.sleep(self.seconds)
        self.path.write_text(str(os.getpid()))


@dataclass(frozen=True)
class FailJob:
    label: str = "fail"

    def __call__(self) -> None:
        raise ValueError("as asked")


@dataclass(frozen=True)
class DieJob:
    label: str = "die"

    def __call__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
