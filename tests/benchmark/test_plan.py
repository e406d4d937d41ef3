import pickle
from pathlib import Path

from sonido_bench.benchmark.config import ArmConfig, BenchmarkConfig, Budget, ClassConfig, TaskConfig
from sonido_bench.benchmark.plan import make_plan
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.clips import Clip

LOGMEL = "sonido_bench.foundation.logmel.LogMel"
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
    plan = make_plan(config, Workspace(tmp_path / "results", tmp_path / "cache"), FakeData())
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
