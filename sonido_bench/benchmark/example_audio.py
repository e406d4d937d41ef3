"""A few test clips to hear beside their predictions."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sonido_bench.audio import read_clip, write_audio
from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.results import load_results
from sonido_bench.files import atomic_path
from sonido_bench.metrics.items import Audio, Recording

__all__ = ["save_example_audio", "save_recordings"]

SAMPLE_RATE = 44100


def save_example_audio(folder: Path, data: Mapping[str, Any]) -> None:
    """Write the clips that results describe as examples to ``folder/examples/<clip>.ogg``, once.

    Args:
        folder: A benchmark's results.
        data: The data set of each task.

    Raises:
        DataError: If a clip cannot be read.
    """
    wanted: dict[str, set[str]] = {}
    for result in load_results(folder):
        names = {name for name, example in result.items.examples.items() if "input" not in example}
        wanted.setdefault(result.experiment.task, set()).update(names)
    for task, names in wanted.items():
        for clip in data[task].clips("test") if names and task in data else []:
            path = folder / "examples" / f"{clip.name}.ogg"
            if clip.name in names and not path.exists():
                with atomic_path(path) as temporary:
                    write_audio(temporary, read_clip(clip, SAMPLE_RATE), SAMPLE_RATE)


def save_recordings(
    folder: Path, experiment: Experiment, recordings: Mapping[str, Recording]
) -> dict[str, dict[str, Any]]:
    """Write what a run was given, what was wanted and what it gave to ``folder/examples/<slug>/``.

    Args:
        folder: A benchmark's results.
        experiment: The run.
        recordings: By track.

    Returns:
        By track, for the run's result: ``{"input": file, "reference": {name: file}, "estimate": {name: file}}``, files
        relative to ``folder/examples``.

    Raises:
        DataError: If a file cannot be written.
    """
    examples = {}
    for track, recording in recordings.items():
        place = Path(experiment.slug) / re.sub(r"[^\w.@+-]+", "_", track)

        def save(name: str, audio: Audio, place: Path = place, rate: int = recording.sample_rate) -> str:
            """Write one file and return where it lies."""
            file = place / f"{name}.ogg"
            with atomic_path(folder / "examples" / file) as temporary:
                write_audio(temporary, torch.from_numpy(audio), rate)
            return file.as_posix()

        examples[track] = {
            "input": save("input", recording.input),
            "reference": {name: save(f"reference-{name}", audio) for name, audio in recording.references.items()},
            "estimate": {name: save(f"estimate-{name}", audio) for name, audio in recording.estimates.items()},
        }
    return examples
