"""On what a result was obtained."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

__all__ = ["describe_environment"]

PACKAGES = ("sonido-bench", "torch", "lightning", "numpy", "scipy", "mir_eval", "torchmetrics")


@cache
def describe_environment() -> dict[str, Any]:
    """Return git commit (``None`` outside a checkout), versions, device and platform, JSON-able."""
    return {
        "git": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": {name: version(name) for name in PACKAGES},
    }


def _git_commit() -> str | None:
    """Return the commit of this package's checkout, with ``+`` where files differ from it.

    An installed package may lie in some other project's checkout, whose commit would say nothing: hence the first
    command, which fails unless git tracks this very file.
    """
    folder = Path(__file__).resolve().parent
    tracked = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
    return _git(folder, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
