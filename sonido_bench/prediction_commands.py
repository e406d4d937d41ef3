"""What `predict` does; imports wait as in commands.py."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sonido_bench.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["predict"]


def predict(arguments: argparse.Namespace) -> None:
    """Apply a trained task model to recordings, or to folders of stems; print the files that it wrote."""
    import torch
    from rich.progress import Progress

    from sonido_bench.launch.prediction import predict as run
    from sonido_bench.launch.trained import load_trained

    _check_sources(arguments.audio)
    task = load_trained(arguments.run).to("cuda" if torch.cuda.is_available() else "cpu")
    written: list[Path] = []
    with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
        for source in arguments.audio:
            row = bar.add_task(source.name, total=None)
            written += run(task, source, arguments.output, partial(_advance, bar, row))
            bar.update(row, completed=1, total=1)
    print(*written, sep="\n")


def _advance(bar: "Progress", row: "TaskID", done: int, samples: int) -> None:
    bar.update(row, completed=done, total=samples)


def _check_sources(sources: list[Path]) -> None:
    """Refuse sources that are missing, or whose results would overwrite one another."""
    if missing := [source for source in sources if not source.exists()]:
        raise ConfigError(f"there is no file or folder {str(missing[0])!r}; give audio, or in mixing a folder of stems")
    names = [source.resolve().name if source.is_dir() else source.stem for source in sources]
    if len(set(names)) < len(names):
        raise ConfigError("two of the recordings have the same name; predict them into different folders")
