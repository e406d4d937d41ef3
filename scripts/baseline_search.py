"""How strong is the baseline? Change one option of it at a time and look at validation.

Every task of a benchmark is trained without features under each candidate, at the task's fractions, on music and seeds
that the benchmark does not use. A candidate that beats the benchmark file's own setting by more than the noise belongs
into the file. No test set is read. Interrupted searches resume.

    python scripts/baseline_search.py quick --workspace results/search
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning.pytorch as pl

from sonido_bench.benchmark.config import BenchmarkConfig, Budget, ClassConfig, Selection, TaskConfig, load_benchmark
from sonido_bench.benchmark.experiment import BASELINE
from sonido_bench.benchmark.history import History
from sonido_bench.benchmark.instantiate import arm_extractor, build_data, build_task
from sonido_bench.benchmark.plan import make_plan, open_data
from sonido_bench.benchmark.stage_one_gate import GATE_DATA
from sonido_bench.benchmark.tracking import NoTracker
from sonido_bench.benchmark.training import attach_features, train
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.features.cache import FeatureCache
from sonido_bench.files import sha256_json, write_json
from sonido_bench.launch.local import prepare_data
from sonido_bench.launch.pool import worker_pool
from sonido_bench.launch.progress import PhaseProgress

FIRST_SEED = 100
"""Seeds from here on: no benchmark uses them."""

TAGGING: dict[str, list[Any]] = {
    "learning_rate": [2e-3, 5e-3],
    "width": [64, 128],
    "layers": [0, 1, 2],
    "kernel_size": [1, 3],
    "pooling": ["attention", "mean", "attention_mean_max"],
    "dropout": [0.2, 0.5],
    "max_steps": [300, 400],
    "front_end.pool": [4, 8],
    "front_end.n_fft": [4096, 8192],
}
CANDIDATES: dict[str, dict[str, list[Any]]] = {
    "instruments": TAGGING,
    "key": TAGGING,
    "transcription": {
        "learning_rate": [1e-3, 2e-3, 4e-3],
        "width": [128, 256, 384, 512],
        "context": [2, 4, 8],
        "dropout": [0.1, 0.3],
        "max_steps": [200, 300],
        "front_end.n_fft": [2048, 4096],
    },
}


@dataclass(frozen=True)
class SearchJob:
    """Train one candidate and write its validation score.

    Attributes:
        config: The benchmark.
        task: The candidate.
        fraction: Of the training clips.
        seed: Of the training.
        workspace: Where scores and features lie.
        arm: Whose features it gets.
        fingerprint: Of that arm's extractor, or nothing.
    """

    config: BenchmarkConfig
    task: TaskConfig
    fraction: float
    seed: int
    workspace: Workspace
    arm: str = BASELINE
    fingerprint: str = ""

    @property
    def label(self) -> str:
        """What the progress bar shows."""
        return f"{self.task.name} {self.arm} {self.fraction:g} {self.seed}"

    @property
    def path(self) -> Path:
        """Where the score is kept; the same candidate is never trained twice."""
        task = (self.task.name, self.task.model.class_path, dict(self.task.model.init_args), vars(self.task.budget))
        data = asdict(self.config.task_data(self.task))
        identity = [*task, data, self.fraction, self.seed, self.arm, self.fingerprint]
        return self.workspace.results / f"{sha256_json(identity)}.json"

    def __call__(self) -> None:
        """Train and keep the best validation score."""
        pl.seed_everything(self.seed, verbose=False)
        task = build_task(self.task, arm_extractor(self.config.arm(self.arm)))
        data = build_data(self.config, self.task, task.target, self.fraction, self.seed)
        data.setup(None)
        attach_features(task, data, FeatureCache(self.workspace.cache))
        best = train(task, data, self.task.budget, self.path.with_suffix(""), History(NoTracker()))
        write_json(self.path, {"score": best.score, "step": best.step})


Table = Mapping[tuple[str, str, str], Mapping[float, list[SearchJob]]]
"""By task, option and value, and by fraction: the trainings of a candidate."""


def other_music(config: BenchmarkConfig) -> BenchmarkConfig:
    """Return the benchmark on music that it does not use, and without test clips, for every task.

    The benchmark's data set gets the sizes of the gate's. A data set that a task has of its own, and what a task
    changes in the benchmark's, keep their sizes but for the test split. A data set that is not rendered has no other
    music: it is refused, as one without the option ``data_seed``, when it is opened.
    """
    unseen = {option: GATE_DATA[option] for option in ("data_seed", "test_tracks")}

    def moved(task: TaskConfig) -> TaskConfig:
        """Return a task on other music."""
        data = task.data and ClassConfig(task.data.class_path, {**task.data.init_args, **unseen})
        return replace(task, data=data, data_args={**task.data_args, **unseen})

    data = ClassConfig(config.data.class_path, {**config.data.init_args, **GATE_DATA})
    return replace(config, data=data, tasks={name: moved(task) for name, task in config.tasks.items()})


def on_seeds(
    config: BenchmarkConfig, seeds: Sequence[int], fractions: Sequence[float] | None = None
) -> BenchmarkConfig:
    """Return the benchmark with the seeds of a search, and with its fractions if it has any, for every task.

    What is extracted before the trainings are the clips of this grid.
    """
    own = {"seeds": None} if fractions is None else {"seeds": None, "fractions": None}
    tasks = {name: replace(task, **own) for name, task in config.tasks.items()}
    return replace(config, seeds=seeds, fractions=fractions or config.fractions, tasks=tasks)


def candidates(task: TaskConfig) -> Iterator[tuple[str, Any, TaskConfig]]:
    """Yield option, value and the task with that one option changed."""
    for option, values in CANDIDATES[task.name].items():
        for value in values:
            yield option, value, changed(task, option, value)


def changed(task: TaskConfig, option: str, value: Any) -> TaskConfig:
    """Return the task with one option set: of its budget, its front end or its model."""
    if option in vars(task.budget):
        return replace(task, budget=Budget(**{**vars(task.budget), option: value}))
    arguments = dict(task.model.init_args)
    if option.startswith("front_end."):
        front_end = arguments["front_end"]
        init_args = {**front_end["init_args"], option.removeprefix("front_end."): value}
        arguments["front_end"] = {**front_end, "init_args": init_args}
    else:
        arguments[option] = value
    return replace(task, model=ClassConfig(task.model.class_path, arguments))


def scores(jobs: list[SearchJob]) -> str:
    """Return mean and standard deviation over seeds, from the score files."""
    values = [json.loads(job.path.read_text())["score"] for job in jobs]
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def extract(config: BenchmarkConfig, tasks: list[TaskConfig], workspace: Workspace, pool: Any) -> None:
    """Extract the front ends of all candidates."""
    for task in tasks:
        single = replace(config, tasks={task.name: task}, arms=["none"])
        plan = make_plan(single, workspace, open_data(single))
        pool.run(plan.extractions, lambda label: None)


def main() -> None:
    """Search and print a Markdown table per task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", nargs="?", default="quick")
    parser.add_argument("--workspace", type=Path, default=Path("results/search"))
    parser.add_argument("--tasks", nargs="+", choices=CANDIDATES)
    parser.add_argument("--options", nargs="+")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each candidate (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    config = other_music(load_benchmark(arguments.benchmark))
    config = config.select(Selection(tasks=arguments.tasks or [name for name in config.tasks if name in CANDIDATES]))
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    config = on_seeds(config, seeds)
    workspace = Workspace(arguments.workspace, Path("cache/features"))
    grid = [
        (task, option, value, candidate)
        for task in config.tasks.values()
        for option, value, candidate in candidates(task)
        if not arguments.options or option in arguments.options
    ]
    table: Table = {
        (task.name, option, str(value)): {
            fraction: [SearchJob(config, candidate, fraction, seed, workspace) for seed in seeds]
            for fraction in config.task_fractions(task)
        }
        for task, option, value, candidate in grid
    }
    jobs = {
        job.path: job for row in table.values() for column in row.values() for job in column if not job.path.exists()
    }
    prepare_data(open_data(config).values(), arguments.workers)
    with worker_pool(arguments.workers) as pool, PhaseProgress("search", len(jobs)) as progress:
        extract(config, [candidate for *_, candidate in grid], workspace, pool)
        pool.run(list(jobs.values()), progress.advance)
    for task in config.tasks.values():
        show(task.name, config.task_fractions(task), table)


def show(name: str, fractions: Sequence[float], table: Table) -> None:
    """Print the Markdown table of a task."""
    print(f"\n{name}\n\n| option | value | " + " | ".join(f"{fraction:.0%}" for fraction in fractions) + " |")
    print("| --- | --- |" + " --- |" * len(fractions))
    for (task, option, value), columns in table.items():
        if task == name:
            print(f"| {option} | {value} | " + " | ".join(scores(column) for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
