import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sonido_bench.benchmark import plan as planning
from sonido_bench.benchmark import runner
from sonido_bench.benchmark.config import (
    ArmConfig,
    BenchmarkConfig,
    Budget,
    ClassConfig,
    Selection,
    TaskConfig,
    config_hash,
)
from sonido_bench.benchmark.plan import make_plan
from sonido_bench.benchmark.results import save_result
from sonido_bench.benchmark.runner import RunJob, expected_config
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.clips import Clip
from sonido_bench.foundation.catalogue import load_extractor
from sonido_bench.metrics.items import TestItems
from tests.benchmark.fabricate import make_result

LOGMEL = "sonido_bench.foundation.logmel.LogMel"
ONE_STEP = Budget(1, 1, 1, 1)
NARROW = ClassConfig("sonido_bench.foundation.convnet.ConvNet", {"channels": [4, 4, 4, 8]})


class FakeData:
    """One clip a split; nothing is read."""

    name = "fake"
    sha256 = "0" * 64

    def setup(self, stage: None) -> None:
        pass

    def clips(self, split: str) -> list[Clip]:
        return [Clip(split, Path(f"{split}.flac"), split, 0.0, 1.0)]


class Share:
    """A training share of two clips, one of which every seed has."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def clips(self, split: str) -> list[Clip]:
        assert split == "train"
        return [Clip(name, Path(name), name, 0.0, 1.0) for name in ("shared", f"of seed {self.seed}")]


@pytest.fixture
def shares(monkeypatch):
    """Training shares of made-up data sets; tasks whose classes do not exist have a target."""
    monkeypatch.setattr(planning, "build_task", lambda task, extractor: SimpleNamespace(target="stems"))
    monkeypatch.setattr(planning, "build_data", lambda config, task, target, fraction, seed: Share(seed))


def test_an_arm_with_arguments_and_its_control_are_extracted_once_each(tmp_path):
    task = ClassConfig("some.Task", {"front_end": {"class_path": LOGMEL}})
    config = BenchmarkConfig(
        name="small",
        data=ClassConfig("some.Data", {}),
        tasks={name: TaskConfig(name, "tagger", task, Budget(1, 1, 1, 1)) for name in ("key", "instruments")},
        arms=["none", "chroma", "narrow", "narrow@random"],
        fractions=[1.0],
        seeds=[0, 1],
        extractors={"narrow": NARROW},
    )
    data = dict.fromkeys(config.tasks, FakeData())
    plan = make_plan(config, Workspace(tmp_path / "results", tmp_path / "cache"), data)
    assert [job.extractor for job in plan.extractions] == [
        ClassConfig(LOGMEL, {}),
        ArmConfig("chroma"),
        ArmConfig("narrow", NARROW),
        ArmConfig("narrow@random", NARROW),
    ]
    labels = [job.label.removeprefix("features of ") for job in plan.extractions]
    assert labels == ["LogMel", "chroma", "narrow", "narrow@random"]
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert len(plan.runs) == 2 * 4 * 2


@pytest.mark.usefixtures("shares")
def test_tasks_with_grids_of_their_own_are_planned_together(tmp_path):
    """What one task alone needs is extracted for its runs only; what has a result is not planned again."""
    task = ClassConfig("some.Task", {"width": 8})
    config = BenchmarkConfig(
        name="two",
        data=ClassConfig("some.Data", {}),
        tasks={
            "key": TaskConfig("key", "tagger", task, ONE_STEP),
            "mixing": TaskConfig("mixing", "crafx", task, ONE_STEP, fractions=[0.1], seeds=[0, 9]),
        },
        arms=["none", "chroma"],
        fractions=[0.1, 1.0],
        seeds=[0, 1],
    )
    data = dict.fromkeys(config.tasks, FakeData())
    workspace = Workspace(tmp_path, tmp_path / "cache")
    plan = make_plan(config, workspace, data)
    grid = [(run.experiment.seed, run.experiment.task, run.experiment.fraction) for run in plan.runs[::2]]
    assert grid == [
        (0, "key", 0.1), (0, "key", 1.0), (0, "mixing", 0.1), (1, "key", 0.1), (1, "key", 1.0), (9, "mixing", 0.1)
    ]  # fmt: skip
    assert [run.experiment.arm for run in plan.runs] == ["none", "chroma"] * 6
    assert pickle.loads(pickle.dumps(plan)) == plan

    for run in plan.runs:
        if run.experiment.task == "key":
            fingerprint = load_extractor("chroma").fingerprint() if run.experiment.arm == "chroma" else None
            recorded = expected_config(config, run.experiment, FakeData.sha256, fingerprint)
            done = make_result("key", run.experiment.arm, run.experiment.fraction, run.experiment.seed)
            place = {"experiment": run.experiment, "config": recorded, "config_sha256": config_hash(recorded)}
            save_result(workspace.results, replace(done, **place))
    rest = make_plan(config, workspace, data)
    assert (rest.finished, {run.experiment.task for run in rest.runs}) == (8, {"mixing"})
    plain = replace(config, tasks={"key": config.tasks["key"]})
    assert make_plan(plain, workspace, data).finished == 8  # the other task's grid is no part of these results


def recorded_examples(config, experiment, monkeypatch):
    """Whether a run writes what there is to hear."""
    asked = []
    monkeypatch.setattr(runner, "save_recordings", lambda *arguments: asked.append(arguments) or {})
    RunJob(config, experiment, Workspace(Path(), Path()))._items(TestItems([]))
    return bool(asked)


def test_sounds_are_kept_of_each_tasks_first_seed_and_largest_fraction(monkeypatch):
    task = ClassConfig("some.Task", {})
    tasks = {
        "umx": TaskConfig("umx", "umx", task, ONE_STEP),
        "mixing": TaskConfig("mixing", "crafx", task, ONE_STEP, fractions=[0.03, 0.1], seeds=[5, 4]),
    }
    config = BenchmarkConfig("two", ClassConfig("some.Data", {}), tasks, ["none", "chroma"], [0.1, 1.0], [0, 1])
    kept = [
        (each.task, each.arm, each.fraction, each.seed)
        for each in config.experiments(dict.fromkeys(tasks, "fake"))
        if recorded_examples(config, each, monkeypatch)
    ]
    assert sorted(kept) == [
        ("mixing", "chroma", 0.1, 4),
        ("mixing", "none", 0.1, 4),
        ("umx", "chroma", 1.0, 0),
        ("umx", "none", 1.0, 0),
    ]


class StemData(FakeData):
    """Other clips, of which one is the same part of the same file under another name."""

    name = "stems"

    def clips(self, split: str) -> list[Clip]:
        return [Clip(f"{split} again", Path(f"{split}.flac"), split, 0.0, 1.0), Clip("more", Path("m"), "m", 0.0, 1.0)]


def test_tasks_with_data_of_their_own_are_extracted_together(tmp_path):
    """A task that gives audio has no front end; a clip that two data sets share is extracted once."""
    tasks = {
        "key": TaskConfig("key", "tagger", ClassConfig("a.Task", {"front_end": {"class_path": LOGMEL}}), ONE_STEP),
        "umx": TaskConfig("umx", "umx", ClassConfig("b.Task", {"width": 8}), ONE_STEP, ClassConfig("b.Data", {})),
    }
    config = BenchmarkConfig("both", ClassConfig("a.Data", {}), tasks, ["none", "chroma"], [1.0], [0])
    plan = make_plan(config, Workspace(tmp_path, tmp_path / "cache"), {"key": FakeData(), "umx": StemData()})
    assert [(job.label, len(job.clips)) for job in plan.extractions] == [
        ("features of LogMel", 3),
        ("features of chroma", 4),
    ]
    assert {(run.experiment.task, run.experiment.dataset) for run in plan.runs} == {("key", "fake"), ("umx", "stems")}
    alone = make_plan(
        config.select(Selection(arms=["none"])),
        Workspace(tmp_path, tmp_path / "c"),
        {"umx": StemData()} | {"key": FakeData()},
    )
    assert [job.label for job in alone.extractions] == ["features of LogMel"]


@pytest.mark.usefixtures("shares")
def test_training_clips_that_no_run_reads_are_not_extracted(tmp_path):
    tasks = {"umx": TaskConfig("umx", "umx", ClassConfig("b.Task", {}), ONE_STEP)}
    config = BenchmarkConfig("few", ClassConfig("b.Data", {}), tasks, ["none", "chroma"], [0.1], [0, 1])
    workspace = Workspace(tmp_path, tmp_path / "cache")
    found = make_plan(config, workspace, {"umx": FakeData()}).extractions
    names = [clip.name for job in found for clip in job.clips]
    assert names == [*clip_names("validation"), *clip_names("test"), "shared", "of seed 0", "of seed 1"]
    whole = make_plan(replace(config, fractions=[0.1, 1.0]), workspace, {"umx": FakeData()}).extractions
    everything = {name for split in ("train", "validation", "test") for name in clip_names(split)}
    assert {clip.name for job in whole for clip in job.clips} == everything


def clip_names(split: str) -> list[str]:
    return [clip.name for clip in FakeData().clips(split)]
