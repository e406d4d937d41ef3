"""Where a benchmark reads and writes."""

from dataclasses import dataclass, replace
from pathlib import Path

from sonido_bench.benchmark.config import BenchmarkConfig, ClassConfig

__all__ = ["Workspace"]


@dataclass(frozen=True)
class Workspace:
    """The folders that a benchmark reads and writes.

    Attributes:
        results: The benchmark's own folder: results, checkpoints, leaderboard, report.
        cache: The feature cache; may be shared by benchmarks.
        data: Root of the benchmark's data set; ``None`` leaves it to the benchmark file.
    """

    results: Path
    cache: Path
    data: Path | None = None

    def place(self, config: BenchmarkConfig) -> BenchmarkConfig:
        """Return the benchmark with its data in this workspace, and those of tasks that the file has in the same place.

        A task's data set with another root stays where the file says: it is another one.
        """
        if self.data is None:
            return config
        old, new = config.data.init_args.get("root"), str(self.data)

        def moved(data: ClassConfig) -> ClassConfig:
            """Return a data set with the new root."""
            return ClassConfig(data.class_path, {**data.init_args, "root": new})

        tasks = {
            name: replace(task, data=moved(task.data)) if task.data and task.data.init_args.get("root") == old else task
            for name, task in config.tasks.items()
        }
        return replace(config, data=moved(config.data), tasks=tasks)
