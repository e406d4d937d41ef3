"""Results of runs that never ran, with a known effect: for tests, and for benchmarks/leaderboard_speed.py."""

from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from zlib import crc32

import numpy as np

from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.results import Cost, Items, Parameters, Result
from sonido_bench.metrics.metric import Metric

ACCURACY = Metric("accuracy")
ERROR = Metric("error", higher_is_better=False)
MAP = Metric("map", "average_precision")
AUC = Metric("roc_auc", "roc_auc")
R2 = Metric("r2", "r2")
METRICS = {
    "key": (ACCURACY, ERROR),
    "instruments": (MAP, AUC),
    "tempo": (R2,),
    "transcription": (Metric("note_f1"), Metric("onset_f1")),
}
LABELS = ["bass", "drums", "flute", "guitar", "organ", "piano", "strings", "violin"]


def make_result(
    task: str = "key",
    arm: str = "none",
    fraction: float = 1.0,
    seed: int = 0,
    *,
    items: Items | None = None,
    metrics: Sequence[Metric] | None = None,
    network: str = "tagger",
) -> Result:
    """A whole result around some items."""
    rng = _rng(task, arm, fraction, seed)
    metrics = tuple(metrics or METRICS[task])
    steps = range(100, 1100, 100)
    rise = 0.4 + 0.3 * fraction**0.2
    return Result(
        experiment=Experiment(task, network, "rendered", arm, fraction, seed),
        config_sha256="c" * 64,
        config={},
        extractor=None if arm == "none" else {"name": arm, "sha256": "e" * 64},
        data={"name": "rendered", "version": "1", "sha256": "d" * 64},
        environment={"git": "a1b2c3d", "python": "3.11.9", "device": "cpu", "packages": {"torch": "2.11.0"}},
        cost=Cost(*rng.uniform(50, 90, 2), int(rng.uniform(5e8, 9e8))),
        parameters=Parameters(1_200_000, 1_200_000, 0 if arm == "none" else 35_000_000),
        history=[
            {"step": step, "val/loss": 1 / step, f"val/{metrics[0].name}": value}
            for step, value in zip(
                steps, rise - rise * 2 ** (-np.array(steps) / 200) + rng.normal(0, 0.01, 10), strict=True
            )
        ],
        best_step=900,
        metrics=metrics,
        values={},
        items=items or make_items(task, arm, fraction, seed),
    )


def make_items(
    task: str,
    arm: str = "none",
    fraction: float = 1.0,
    seed: int = 0,
    count: int = 40,
    classes: int = 4,
    effect: float = 0.0,
) -> Items:
    """A test set: the same clips, truths and difficulties for all runs of a task; noise of the run; an effect."""
    shared, own = _rng(task), _rng(task, arm, fraction, seed)
    names = [f"clip-{index:04d}" for index in range(count)]
    if task in ("key", "transcription"):
        ease = shared.normal(0.6, 0.2, count) + own.normal(effect, 0.1, count)
        names_of = [metric.name for metric in METRICS[task]]
        rows = np.clip([ease, 1 - ease], 0, 1).round(4).tolist()
        return Items(names, dict(zip(names_of, rows, strict=True)), examples=_examples(task, names, own))
    truth = shared.random((count, classes)) < 0.3 if task == "instruments" else shared.normal(size=(count, classes))
    estimate = (0.5 + effect) * truth + shared.normal(0, 0.5, truth.shape) + own.normal(0, 0.2, truth.shape)
    return Items(names, {}, truth.astype(float).tolist(), estimate.tolist(), _examples(task, names, own))


def make_benchmark(
    tasks: Sequence[str] = ("key", "instruments"),
    arms: Sequence[str] = ("none", "tiny", "tiny@random"),
    fractions: Sequence[float] = (0.1, 1.0),
    seeds: Sequence[int] = range(3),
    count: int = 40,
    classes: int = 4,
    effects: Mapping[str, float] = MappingProxyType({"tiny": 0.3}),
) -> list[Result]:
    """All runs of a grid; ``effects`` is by arm."""
    return [
        make_result(
            task, arm, fraction, seed,
            items=make_items(task, arm, fraction, seed, count, classes, effects.get(arm, 0.0)),
        )
        for task, arm, fraction, seed in product(tasks, arms, fractions, seeds)
    ]  # fmt: skip


def _rng(*parts: object) -> np.random.Generator:
    return np.random.default_rng(crc32(repr(parts).encode()))


def _examples(task: str, names: list[str], rng: np.random.Generator) -> dict[str, dict[str, object]]:
    examples = {}
    for index, name in enumerate(names[:3]):
        shared = _rng(task, index)
        if task == "transcription":
            notes = [[0.4 * k, 0.4 * k + 0.35, int(shared.integers(48, 80)), 80] for k in range(20)]
            heard = [[on + rng.normal(0, 0.02), off, pitch + (rng.random() < 0.2), v] for on, off, pitch, v in notes]
            examples[name] = {"reference": notes, "estimate": heard[: int(rng.integers(14, 20))]}
        else:
            truth = sorted(shared.choice(LABELS, 3, replace=False).tolist())
            guess = sorted({*truth[: rng.integers(1, 4)], *rng.choice(LABELS, 1).tolist()})
            examples[name] = {"reference": truth, "estimate": guess}
    return examples
