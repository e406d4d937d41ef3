"""How should features enter? Train arms with different gains of the injection and look at validation.

Music of another data seed than the benchmark's is rendered for it, with more validation clips and no test clips:
neither the benchmark's test set nor its validation set is read. Scores are paired differences to the baseline of the
same seed. Interrupted searches resume.

    python scripts/injection_search.py quick --tasks key --arms sonido-tiny sonido-tiny@tokenizer --gains 4 16
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from baseline_search import FIRST_SEED, SearchJob, changed

from sonido_bench.benchmark.config import BenchmarkConfig, ClassConfig, load_benchmark
from sonido_bench.benchmark.experiment import BASELINE
from sonido_bench.benchmark.instantiate import arm_extractor
from sonido_bench.benchmark.plan import make_plan, open_data
from sonido_bench.benchmark.stage_one_gate import GATE_DATA
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.launch.local import prepare_data
from sonido_bench.launch.pool import worker_pool
from sonido_bench.launch.progress import PhaseProgress


def other_music(config: BenchmarkConfig) -> BenchmarkConfig:
    """Return the benchmark on music that it does not use."""
    data = ClassConfig(config.data.class_path, {**config.data.init_args, **GATE_DATA})
    return replace(config, data=data)


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
    config = other_music(load_benchmark(arguments.benchmark))
    names = arguments.tasks or list(config.tasks)
    config = replace(config, arms=[BASELINE, *arguments.arms], tasks={name: config.tasks[name] for name in names})
    workspace = Workspace(arguments.workspace, Path("cache/features"))
    fingerprints = {arm: arm_extractor(config.arm(arm)).fingerprint() for arm in arguments.arms}
    table: dict[tuple[str, float, str, float | None], list[SearchJob]] = {}
    for name in names:
        for fraction in arguments.fractions:
            for arm in config.arms:
                for gain in [None] if arm == BASELINE else arguments.gains:
                    task = config.tasks[name]
                    task = task if gain is None else changed(task, "injection_gain", gain)
                    table[name, fraction, arm, gain] = [
                        SearchJob(config, task, fraction, seed, workspace, arm, fingerprints.get(arm, ""))
                        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds)
                    ]
    jobs = {job.path: job for row in table.values() for job in row if not job.path.exists()}
    data = open_data(config)
    prepare_data(data.values(), arguments.workers)
    with worker_pool(arguments.workers) as pool, PhaseProgress("search", len(jobs)) as progress:
        pool.run(make_plan(config, workspace, data).extractions, lambda label: None)
        pool.run(list(jobs.values()), progress.advance)
    print("| task | train | arm | gain | validation | paired difference |\n| --- | --- | --- | --- | --- | --- |")
    for (name, fraction, arm, gain), row in table.items():
        score, baseline = read(row), read(table[name, fraction, BASELINE, None])
        differences = [a - b for a, b in zip(score, baseline, strict=True)]
        shown = "" if gain is None else f"{mean(differences):+.3f} ± {spread(differences):.3f}"
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
