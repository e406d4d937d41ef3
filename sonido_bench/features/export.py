"""Features of one recording as a file of their own."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from sonido_bench.errors import CacheError
from sonido_bench.features.extractor import Extractor
from sonido_bench.files import atomic_path

__all__ = ["export_features"]


def export_features(path: Path, extractor: Extractor, audio: Tensor) -> str:
    """Extract a recording's features and write them to a safetensors file.

    The file holds one ``(frames, dim)`` float32 tensor per stream; its metadata give the extractor's name and
    fingerprint, and each stream's frame rate (Hz) and first frame's centre (s) as JSON.

    Args:
        path: Where to.
        extractor: The frozen model.
        audio: Mono, ``(samples,)`` at the extractor's sample rate.

    Returns:
        One line that says what was written.

    Raises:
        CacheError: If the file cannot be written.
    """
    features = {name: values[0].contiguous() for name, values in extractor.extract(audio[None]).items()}
    grids = {name: vars(extractor.spec.grid(name)) for name in features}
    metadata = {"extractor": extractor.card.name, "fingerprint": extractor.fingerprint(), "streams": json.dumps(grids)}
    try:
        with atomic_path(path) as temporary:
            save_file(features, temporary, metadata)
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error.strerror}; choose another --output folder") from error
    shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in features.items())
    return f"{path}: {shapes}"
