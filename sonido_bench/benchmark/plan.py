"""What a benchmark still has to do: features to extract, experiments to run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonido_bench.benchmark.config import ArmConfig, BenchmarkConfig, ClassConfig, config_hash
from sonido_bench.benchmark.experiment import BASELINE, Experiment
from sonido_bench.benchmark.instantiate import arm_extractor, build, build_data, build_task
from sonido_bench.benchmark.results import load_result, result_path
from sonido_bench.benchmark.runner import RunJob, expected_config
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.clips import Clip
from sonido_bench.datamodules.stems.datamodule import refuse_cache
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


def open_data(config: BenchmarkConfig) -> dict[str, Any]:
    """Return the data set of each task, checked against the task's model; nothing is read or made yet.

    Tasks with the same data and target share one.

    Raises:
        ConfigError: If a class or one of its options is wrong, or a data set changes its audio at random: features of
            a benchmark are cached.
    """
    opened: list[tuple[ClassConfig, str, Any]] = []
    data = {}
    for task in config.tasks.values():
        target = build_task(task, None).target
        built = build_data(config, task, target)
        refuse_cache(getattr(built, "augmentation", None))
        same = [each for known, aim, each in opened if (known, aim) == (config.task_data(task), target)]
        data[task.name] = same[0] if same else built
        opened.append((config.task_data(task), target, data[task.name]))
    return data


def make_plan(config: BenchmarkConfig, workspace: Workspace, data: Mapping[str, Any], wandb: str = "disabled") -> Plan:
    """Compare the grid with what is on disk.

    Args:
        config: The benchmark.
        workspace: Its folders.
        data: The data set of each task, prepared.
        wandb: Mode of the runs' W&B logging.

    Raises:
        ConfigError: If an arm's extractor does not exist.
        ResultError: If a result was made with another configuration, data set or extractor.
    """
    for data_set in {id(each): each for each in data.values()}.values():
        data_set.setup(None)
    fingerprints = {arm: _fingerprint(config.arm(arm)) for arm in config.arms}
    runs = []
    grid = config.experiments({name: data_set.name for name, data_set in data.items()})
    for experiment in grid:
        path = result_path(workspace.results, experiment)
        if path.exists():
            data_sha256 = data[experiment.task].sha256
            expected = expected_config(config, experiment, data_sha256, fingerprints[experiment.arm])
            _check_unchanged(path, config_hash(expected), expected)
        else:
            runs.append(RunJob(config, experiment, workspace, wandb))
    extractions = [
        job
        for extractor, readers in _needed(config, runs)
        for job in _extraction_jobs(extractor, _clips(config, data, readers), workspace.cache)
    ]
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


def _needed(config: BenchmarkConfig, runs: list[RunJob]) -> list[tuple[ArmConfig | ClassConfig, list[Experiment]]]:
    """Return each frozen model that the runs read from the cache, front ends first, with the runs that read it."""
    readers: list[tuple[ArmConfig | ClassConfig, list[Experiment]]] = []
    for run in runs:
        raw = config.tasks[run.experiment.task].model.init_args.get("front_end")  # a task that gives audio has none
        arm = config.arm(run.experiment.arm)
        models: list[ArmConfig | ClassConfig] = [] if arm.name == BASELINE else [arm]
        if raw:
            models.append(ClassConfig(raw["class_path"], raw.get("init_args", {})))
        for model in models:
            experiments = next((known for reader, known in readers if reader == model), None)
            if experiments is None:
                readers.append((model, [run.experiment]))
            else:
                experiments.append(run.experiment)
    return sorted(readers, key=lambda reader: isinstance(reader[0], ArmConfig))


def _clips(config: BenchmarkConfig, data: Mapping[str, Any], readers: list[Experiment]) -> list[Clip]:
    """Return the clips that experiments read; one that several data sets have, or have under other names, once."""
    clips = []
    for task in dict.fromkeys(reader.task for reader in readers):
        whole = data[task]
        clips += [clip for split in ("validation", "test") for clip in whole.clips(split)]
        shares = dict.fromkeys((reader.fraction, reader.seed) for reader in readers if reader.task == task)
        if any(fraction == 1 for fraction, _ in shares):
            clips += whole.clips("train")
        else:
            target = build_task(config.tasks[task], None).target
            for fraction, seed in shares:
                clips += build_data(config, config.tasks[task], target, fraction, seed).clips("train")
    return list({(clip.sha256, clip.start, clip.seconds): clip for clip in clips}.values())


def _extraction_jobs(extractor: ArmConfig | ClassConfig, clips: list[Clip], cache: Path) -> Iterator[ExtractionJob]:
    missing = FeatureCache(cache).missing(_load(extractor).fingerprint(), clips)
    for start in range(0, len(missing), CLIPS_PER_JOB):
        yield ExtractionJob(extractor, tuple(missing[start : start + CLIPS_PER_JOB]), cache)


def _load(config: ArmConfig | ClassConfig) -> Extractor:
    extractor = arm_extractor(config) if isinstance(config, ArmConfig) else build(config, {})
    assert isinstance(extractor, Extractor)
    return extractor
