"""A benchmark on this machine: prepare the data, extract features, run what has no result yet, make the leaderboard."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from sonido_bench.benchmark.config import BenchmarkConfig
from sonido_bench.benchmark.plan import make_plan, open_data
from sonido_bench.benchmark.tracking import make_tracker
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.launch.lock import locked
from sonido_bench.launch.pool import Job, WorkerPool, worker_pool
from sonido_bench.launch.progress import PhaseProgress

__all__ = ["prepare_data", "run_benchmark"]


def run_benchmark(
    config: BenchmarkConfig, workspace: Workspace, workers: int | None = None, wandb: str = "disabled"
) -> dict[str, Any]:
    """Run every experiment that has no result yet.

    The same call resumes after Ctrl-C, a crash or a kill: at most the runs in hand are lost.

    Args:
        config: The benchmark.
        workspace: Its folders.
        workers: Processes, one thread each; by default one per CPU core that this process may use.
        wandb: ``disabled``, ``offline`` or ``online``.

    Returns:
        The data set of each task, set up.

    Raises:
        ConfigError: If the benchmark names something that does not exist.
        SonidoError: If data, cache or results are at fault, or a job failed.
    """
    make_tracker(wandb, workspace.results, config.name)  # a missing key shows now, not after the data are made
    config = workspace.place(config)
    data = open_data(config)
    with locked(workspace.results), worker_pool(workers or _cores()) as pool:
        _prepare(pool, data.values())
        plan = make_plan(config, workspace, data, wandb)
        if not plan.runs:
            print(f"all {plan.finished} experiments have a result in {workspace.results}", file=sys.stderr)
        _phase(pool, "extracting features", plan.extractions)
        _phase(pool, "training", plan.runs, already=plan.finished)
    return data


def prepare_data(data: Iterable[Any], workers: int | None = None) -> None:
    """Make what is missing of data sets.

    Args:
        data: Data modules with ``preparation_jobs`` and ``finish_preparation``.
        workers: Processes; by default one per CPU core that this process may use.

    Raises:
        DataError: If the data cannot be made or written.
    """
    with worker_pool(workers or _cores()) as pool:
        _prepare(pool, data)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _prepare(pool: WorkerPool, data: Iterable[Any]) -> None:
    for data_set in {id(each): each for each in data}.values():  # several tasks may share one
        _phase(pool, "preparing data", data_set.preparation_jobs())
        data_set.finish_preparation()


def _phase(pool: WorkerPool, name: str, jobs: Sequence[Job], already: int = 0) -> None:
    if not jobs:
        return
    with PhaseProgress(name, len(jobs), already) as progress:
        pool.run(jobs, progress.advance)
