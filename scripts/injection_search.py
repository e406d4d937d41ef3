"""How should features enter? Train arms with different gains of the injection and look at validation.

Music of another data seed than the benchmark's is rendered for it, with more validation clips and no test clips:
neither the benchmark's test set nor its validation set is read. Improvements are paired differences to the baseline of
the same seed, positive where the arm is better whatever the metric's direction. Interrupted searches resume.

    python scripts/injection_search.py quick --tasks key --arms sonido-tiny sonido-tiny@tokenizer --gains 4 16
"""

import argparse
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from baseline_search import FIRST_SEED, SearchJob, changed, on_seeds, other_music

from sonido_bench.benchmark.config import Selection, load_benchmark
from sonido_bench.benchmark.experiment import BASELINE
from sonido_bench.benchmark.instantiate import arm_extractor, build_task
from sonido_bench.benchmark.plan import make_plan, open_data
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.launch.local import prepare_data
from sonido_bench.launch.pool import worker_pool
from sonido_bench.launch.progress import PhaseProgress

Table = dict[tuple[str, float, str, float | None], list[SearchJob]]
"""By task, fraction, arm and gain."""


def main() -> None:
    """Search and print a Markdown table: gains by arms, tasks and fractions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", nargs="?", default="quick")
    parser.add_argument("--workspace", type=Path, default=Path("results/search"))
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--arms", nargs="+", default=["sonido-tiny", "sonido-tiny@random", "sonido-tiny@tokenizer"])
    parser.add_argument("--gains", nargs="+", type=float, default=[1.0, 4.0, 16.0])
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.1])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    config = other_music(load_benchmark(arguments.benchmark)).select(Selection(tasks=arguments.tasks))
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    config = on_seeds(replace(config, arms=[BASELINE, *arguments.arms]), seeds, arguments.fractions)
    workspace = Workspace(arguments.workspace, Path("cache/features"))
    fingerprints = {arm: arm_extractor(config.arm(arm)).fingerprint() for arm in arguments.arms}
    table: Table = {}
    for name, named in config.tasks.items():
        for fraction in arguments.fractions:
            for arm in config.arms:
                for gain in [None] if arm == BASELINE else arguments.gains:
                    task = named if gain is None else changed(named, "injection_gain", gain)
                    table[name, fraction, arm, gain] = [
                        SearchJob(config, task, fraction, seed, workspace, arm, fingerprints.get(arm, ""))
                        for seed in seeds
                    ]
    jobs = {job.path: job for row in table.values() for job in row if not job.path.exists()}
    data = open_data(config)
    prepare_data(data.values(), arguments.workers)
    with worker_pool(arguments.workers) as pool, PhaseProgress("search", len(jobs)) as progress:
        pool.run(make_plan(config, workspace, data).extractions, lambda label: None)
        pool.run(list(jobs.values()), progress.advance)
    show(table, {name for name, task in config.tasks.items() if build_task(task, None).mode == "min"})


def show(table: Table, lower_is_better: Collection[str]) -> None:
    """Print the Markdown table.

    Args:
        table: Trainings that are done.
        lower_is_better: Tasks with such a primary metric.
    """
    print("| task | train | arm | gain | validation | paired improvement on none (positive is better) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (name, fraction, arm, gain), row in table.items():
        score, baseline = read(row), read(table[name, fraction, BASELINE, None])
        sign = -1 if name in lower_is_better else 1
        improvements = [sign * (a - b) for a, b in zip(score, baseline, strict=True)]
        shown = "" if gain is None else f"{mean(improvements):+.3f} ± {spread(improvements):.3f}"
        print(
            f"| {name} | {fraction:.0%} | {arm} | {'' if gain is None else f'{gain:g}'} | {mean(score):.3f} | {shown} |"
        )


def read(jobs: Sequence[SearchJob]) -> list[float]:
    """Return the scores of jobs that are done."""
    return [float(json.loads(job.path.read_text())["score"]) for job in jobs]


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation, 0 of a single value."""
    return stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
