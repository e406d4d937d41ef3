import pickle
from pathlib import Path

from sonido_bench.benchmark.config import ArmConfig, BenchmarkConfig, Budget, ClassConfig, Selection, TaskConfig
from sonido_bench.benchmark.plan import make_plan
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.clips import Clip

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
