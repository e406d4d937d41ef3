"""One immutable JSON file per run: everything that the leaderboard knows comes from these."""

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.errors import ResultError
from sonido_bench.files import write_json
from sonido_bench.metrics.metric import Metric

__all__ = [
    "SCHEMA",
    "Cost",
    "Items",
    "Parameters",
    "Result",
    "load_result",
    "load_results",
    "result_path",
    "save_result",
]

SCHEMA = 1
"""Raised whenever the meaning of a field or of a metric changes."""


@dataclass(frozen=True)
class Items:
    """The test set, item by item.

    Attributes:
        names: Names of the test clips; pairs are matched by them.
        scores: For every metric with aggregation ``mean``, one score per item.
        targets: For corpus-level metrics: per item the target (0/1 per class, or values per output), else empty.
        predictions: The matching predictions (scores per class, or values), else empty.
        examples: A few items to look at: name of the clip to a JSON-able description of truth and prediction,
            ``{"reference": ..., "estimate": ...}``: lists of labels (tagging), lists of
            ``[onset, offset, pitch, velocity]`` (transcription), or files by name with the ``input`` beside them
            (separation, mixing).
    """

    names: list[str]
    scores: dict[str, list[float]]
    targets: list[list[float]] = field(default_factory=list)
    predictions: list[list[float]] = field(default_factory=list)
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds of wall clock and of CPU (training and test), and peak resident memory in bytes."""

    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Parameters:
    """Parameters of the task network: in total, those that are trained, and those of the frozen extractor."""

    total: int
    trained: int
    extractor: int


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        experiment: Which one.
        config_sha256: Hash of everything that decides the run's outcome.
        config: That configuration.
        extractor: Name and SHA-256 of the frozen model; ``None`` in the baseline.
        data: Name, version and hash of the data set.
        environment: git commit, package versions, device, Python.
        cost: Seconds and memory.
        parameters: Of the network.
        history: One entry per validation: ``{"step": 20, "train/loss": ..., "val/loss": ..., "val/note_f1": ...}``.
        best_step: The step whose weights were tested, chosen on validation.
        metrics: The task's metrics, the primary one first.
        values: Test score of each metric.
        items: The test set, item by item.
    """

    experiment: Experiment
    config_sha256: str
    config: Mapping[str, Any]
    extractor: Mapping[str, str] | None
    data: Mapping[str, str]
    environment: Mapping[str, Any]
    cost: Cost
    parameters: Parameters
    history: list[dict[str, float]]
    best_step: int
    metrics: tuple[Metric, ...]
    values: dict[str, float]
    items: Items

    @property
    def primary(self) -> Metric:
        """The metric that the leaderboard shows and corrects for."""
        return self.metrics[0]


def result_path(folder: Path, experiment: Experiment) -> Path:
    """Return where the result of an experiment lies in a benchmark's folder."""
    return folder / "runs" / f"{experiment.slug}.json"


def save_result(folder: Path, result: Result) -> Path:
    """Write a result to ``folder/runs``, whole or not at all.

    Raises:
        ResultError: If the folder cannot be written.
    """
    path = result_path(folder, result.experiment)
    try:
        write_json(path, {"schema": SCHEMA, **asdict(result)})
    except OSError as error:
        raise ResultError(
            f"cannot write {path}: {error.strerror}; free some space or choose another --results folder"
        ) from error
    return path


def load_result(path: Path) -> Result:
    """Read one result.

    Raises:
        ResultError: If the file is not JSON, of another schema, or lacks a field.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"cannot read result {path}: {error}") from error
    schema = raw.pop("schema", None) if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise ResultError(
            f"{path} has result schema {schema}, expected {SCHEMA}; move it away, or read it with its own version"
        )
    try:
        return Result(
            **{
                **raw,
                "experiment": Experiment(**raw["experiment"]),
                "cost": Cost(**raw["cost"]),
                "parameters": Parameters(**raw["parameters"]),
                "metrics": tuple(Metric(**metric) for metric in raw["metrics"]),
                "items": Items(**raw["items"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ResultError(f"{path} is not a whole result: {error}") from error


def load_results(folder: Path) -> list[Result]:
    """Read all results of a benchmark's folder, sorted by experiment.

    Raises:
        ResultError: If there is no result, or one cannot be read.
    """
    # a hidden file is one that was being written when its process was killed
    paths = sorted(path for path in (folder / "runs").glob("*.json") if not path.name.startswith("."))
    if not paths:
        raise ResultError(f"no results in {folder / 'runs'}; run `sonido-bench run BENCHMARK.yaml` first")
    with _collector_paused():
        return sorted((load_result(path) for path in paths), key=lambda result: result.experiment)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking millions of fresh, acyclic lists: reading takes a fifth less time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
