"""Which family of models a folder is of."""

from pathlib import Path
from typing import Literal

from sonido_bench.foundation.checkpoint import model_section
from sonido_bench.foundation.jukebox.folder import is_published

__all__ = ["ModelFamily", "model_family"]

ModelFamily = Literal["sonido", "codec", "jukebox"]


def model_family(folder: Path) -> ModelFamily:
    """Return the family of models that a folder is of, by its own word; it is not checked any further.

    Raises:
        DataError: If the folder is neither a checkpoint, whole and unchanged, nor published weights of Jukebox.
    """
    if is_published(folder):
        return "jukebox"
    sections = model_section(folder)
    if "vqvae" in sections:
        return "jukebox"
    return "codec" if "codec" in sections else "sonido"
