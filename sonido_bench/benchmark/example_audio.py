"""A few test clips to hear beside their predictions."""

from collections.abc import Sequence
from pathlib import Path

from sonido_bench.audio import read_clip, write_audio
from sonido_bench.benchmark.results import load_results
from sonido_bench.clips import Clip
from sonido_bench.files import atomic_path

__all__ = ["save_example_audio"]

SAMPLE_RATE = 44100


def save_example_audio(folder: Path, clips: Sequence[Clip]) -> None:
    """Write the clips that results describe as examples to ``folder/examples/<clip>.ogg``, once.

    Args:
        folder: A benchmark's results.
        clips: The test set.

    Raises:
        DataError: If a clip cannot be read.
    """
    names = {name for result in load_results(folder) for name in result.items.examples}
    for clip in clips:
        path = folder / "examples" / f"{clip.name}.ogg"
        if clip.name in names and not path.exists():
            with atomic_path(path) as temporary:
                write_audio(temporary, read_clip(clip, SAMPLE_RATE), SAMPLE_RATE)
