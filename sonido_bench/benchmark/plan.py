"""What a benchmark still has to do: features to extract, experiments to run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonido_bench.benchmark.config import ArmConfig, BenchmarkConfig, ClassConfig, config_hash
from sonido_bench.benchmark.experiment import BASELINE
from sonido_bench.benchmark.instantiate import arm_extractor, build, build_data, build_task
from sonido_bench.benchmark.results import load_result, result_path
from sonido_bench.benchmark.runner import RunJob, expected_config
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.clips import Clip
from sonido_bench.errors import ResultError
from sonido_bench.features.cache import FeatureCache
from sonido_bench.features.extractor import Extractor

__all__ = ["ExtractionJob", "Plan", "make_plan", "open_data"]

CLIPS_PER_JOB = 64


@dataclass(frozen=True)
class ExtractionJob:
    """Extract the features of some clips into the cache; it can be pickled and called in any process."""

    extractor: ArmConfig | ClassConfig
    clips: tuple[Clip, ...]
    cache: Path

    @property
    def label(self) -> str:
        """What the progress bar shows."""
        of = self.extractor
        return f"features of {of.name if isinstance(of, ArmConfig) else of.class_path.rpartition('.')[2]}"

    def __call__(self) -> None:
        """Extract what is missing.

        Raises:
            SonidoError: If audio cannot be read, or the cache cannot be written.
        """
        extractor = _load(self.extractor)
        cache = FeatureCache(self.cache)
        cache.extract(extractor, cache.missing(extractor.fingerprint(), self.clips))


@dataclass(frozen=True)
class Plan:
    """The work that is left.

    Attributes:
        extractions: To be done before the runs.
        runs: Experiments without a result.
        finished: Number of experiments that have one.
    """

    extractions: list[ExtractionJob]
    runs: list[RunJob]
    finished: int


def open_data(config: BenchmarkConfig) -> Any:
    """Return the benchmark's data set, checked against every task's model; nothing is read or made yet.

    Raises:
        ConfigError: If a class or one of its options is wrong.
    """
    checked = [build_data(config, task, build_task(task, None).target) for task in config.tasks.values()]
    return checked[0]


def make_plan(config: BenchmarkConfig, workspace: Workspace, data: Any, wandb: str = "disabled") -> Plan:
    """Compare the grid with what is on disk.

    Args:
        config: The benchmark.
        workspace: Its folders.
        data: Its data set, prepared.
        wandb: Mode of the runs' W&B logging.

    Raises:
        ConfigError: If an arm's extractor does not exist.
        ResultError: If a result was made with another configuration, data set or extractor.
    """
    data.setup(None)
    fingerprints = {arm: _fingerprint(config.arm(arm)) for arm in config.arms}
    runs = []
    grid = config.experiments(data.name)
    for experiment in grid:
        path = result_path(workspace.results, experiment)
        if path.exists():
            expected = expected_config(config, experiment, data.sha256, fingerprints[experiment.arm])
            _check_unchanged(path, config_hash(expected), expected)
        else:
            runs.append(RunJob(config, experiment, workspace, wandb))
    needed = list(_extractors(config, runs))
    clips = [clip for split in ("train", "validation", "test") for clip in data.clips(split)]
    extractions = [job for extractor in needed for job in _extraction_jobs(extractor, clips, workspace.cache)]
    return Plan(extractions, runs, len(grid) - len(runs))


def _fingerprint(arm: ArmConfig) -> str | None:
    extractor = arm_extractor(arm)
    return extractor.fingerprint() if extractor else None


def _check_unchanged(path: Path, expected_hash: str, expected: dict[str, Any]) -> None:
    found = load_result(path)
    if found.config_sha256 != expected_hash:
        changed = [key for key in expected if found.config.get(key) != expected[key]]
        raise ResultError(
            f"{path} was made with another {', '.join(changed) or 'configuration'}; "
            "results of two configurations cannot share a table: choose another --results folder, or remove the old one"
        )


def _extractors(config: BenchmarkConfig, runs: list[RunJob]) -> Iterator[ArmConfig | ClassConfig]:
    """Yield each frozen model that the runs read from the cache, once."""
    front_ends: list[ClassConfig] = []
    arms: list[ArmConfig] = []
    for run in runs:
        raw = config.tasks[run.experiment.task].model.init_args["front_end"]
        front_end = ClassConfig(raw["class_path"], raw.get("init_args", {}))
        if front_end not in front_ends:
            front_ends.append(front_end)
        arm = config.arm(run.experiment.arm)
        if arm.name != BASELINE and arm not in arms:
            arms.append(arm)
    yield from front_ends
    yield from arms


def _extraction_jobs(extractor: ArmConfig | ClassConfig, clips: list[Clip], cache: Path) -> Iterator[ExtractionJob]:
    missing = FeatureCache(cache).missing(_load(extractor).fingerprint(), clips)
    for start in range(0, len(missing), CLIPS_PER_JOB):
        yield ExtractionJob(extractor, tuple(missing[start : start + CLIPS_PER_JOB]), cache)


def _load(config: ArmConfig | ClassConfig) -> Extractor:
    extractor = arm_extractor(config) if isinstance(config, ArmConfig) else build(config, {})
    assert isinstance(extractor, Extractor)
    return extractor
