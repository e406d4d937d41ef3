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
        data: Root of the data set; ``None`` leaves it to the benchmark file.
    """

    results: Path
    cache: Path
    data: Path | None = None

    def place(self, config: BenchmarkConfig) -> BenchmarkConfig:
        """Return the benchmark with its data in this workspace."""
        if self.data is None:
            return config
        data = ClassConfig(config.data.class_path, {**config.data.init_args, "root": str(self.data)})
        return replace(config, data=data)
