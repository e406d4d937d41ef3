"""Test clips to hear, beside what every arm made of them."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonido_bench.benchmark.charts import PianoRoll, piano_roll
from sonido_bench.benchmark.experiment import BASELINE
from sonido_bench.benchmark.results import Result

__all__ = ["Example", "Label", "Prediction", "examples_of"]

CLIPS = 3
"""Shown of each task."""


@dataclass(frozen=True)
class Label:
    """One label of a clip: ``right``, ``extra`` (not in the reference) or ``missed``."""

    text: str
    state: str


@dataclass(frozen=True)
class Prediction:
    """The truth, or what one arm made of a clip: as notes, as labels, as sound (data URIs by name), or as text."""

    arm: str
    roll: PianoRoll | None = None
    labels: Sequence[Label] = ()
    sounds: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Example:
    """A clip: ``audio`` is a data URI, or empty where the results hold no recording of it."""

    clip: str
    audio: str
    predictions: list[Prediction]


def examples_of(runs: Mapping[str, Result], folder: Path) -> list[Example]:
    """Return the first clips that every run describes.

    Args:
        runs: One run of each arm, the baseline first.
        folder: Where recordings lie, as ``<clip>.ogg``, or as a run's examples name them.
    """
    shared = [set(run.items.examples) for run in runs.values() if run.items.examples]
    clips = sorted(set.intersection(*shared))[:CLIPS] if shared else []
    described = {arm: run for arm, run in runs.items() if run.items.examples}
    examples = []
    for clip in clips:
        given = next(iter(described.values())).items.examples[clip].get("input")
        audio = _audio(folder, given if isinstance(given, str) else f"{clip}.ogg")
        examples.append(Example(clip, audio, _predictions(clip, described, folder)))
    return examples


def _audio(folder: Path, file: str) -> str:
    path = (folder / file).resolve()
    # a name comes from a result file and must not reach outside the folder
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return ""
    return "data:audio/ogg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _predictions(clip: str, runs: Mapping[str, Result], folder: Path) -> list[Prediction]:
    shown = {arm: run.items.examples[clip].get("estimate") for arm, run in runs.items()}
    truth: Any = (runs.get(BASELINE) or next(iter(runs.values()))).items.examples[clip].get("reference")
    everything: dict[str, Any] = {"reference": truth, **shown}
    if all(_are_notes(value) for value in everything.values()) and any(everything.values()):
        return _rolls(everything)
    if all(_are_files(value) for value in everything.values()):
        return [
            Prediction(arm, sounds={name: _audio(folder, file) for name, file in value.items()})
            for arm, value in everything.items()
        ]
    if all(isinstance(value, list) for value in everything.values()):
        return [Prediction(arm, labels=_labels(value, truth)) for arm, value in everything.items()]
    return [
        Prediction(arm, text=value if isinstance(value, str) else json.dumps(value))
        for arm, value in everything.items()
    ]


def _are_notes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(note, list) and len(note) == 4 and all(isinstance(number, int | float) for number in note)
        for note in value
    )


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(file, str) and file.endswith(".ogg") for file in value.values())


def _rolls(everything: Mapping[str, list[list[float]]]) -> list[Prediction]:
    notes = [note for rows in everything.values() for note in rows]
    seconds = max(note[1] for note in notes)
    pitches = int(min(note[2] for note in notes)) - 1, int(max(note[2] for note in notes)) + 1
    truth = everything["reference"]
    return [Prediction(arm, roll=piano_roll(truth, rows, seconds, pitches)) for arm, rows in everything.items()]


def _labels(shown: list[Any], truth: list[Any]) -> list[Label]:
    marked = [Label(str(label), "right" if label in truth else "extra") for label in shown]
    return marked + [Label(str(label), "missed") for label in truth if label not in shown]
