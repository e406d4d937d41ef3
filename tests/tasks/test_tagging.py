import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score

from sonido_bench.errors import ConfigError
from sonido_bench.metrics.key import KEYS
from sonido_bench.tasks import TaggingTask

TARGETS = {
    "multilabel": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    "key": torch.tensor([3, 17]),
    "regression": torch.tensor([[120.0, -3.0], [90.0, 5.0]]),
}
CLASSES = {"multilabel": ["piano", "bass"], "key": None, "regression": ["tempo", "valence"]}
BEST = {"multilabel": "map", "key": "key_score", "regression": "r2"}


def make_task(front_end, extractor=None, problem="multilabel", **options):
    torch.manual_seed(0)
    return TaggingTask(front_end, extractor, problem, "some", CLASSES[problem], width=32, **options)


def tones(problem, repeat=1):
    """One clip per pitch, the targets after them."""
    time = torch.arange(8000) / 8000
    audio = torch.stack([0.5 * torch.sin(2 * torch.pi * hertz * time) for hertz in (440.0, 1234.0)])
    return {
        "clip": [f"clip{index}" for index in range(2 * repeat)],
        "seconds": 1.0,
        "sample_rate": 8000,
        "audio": audio.unsqueeze(1).repeat(repeat, 1, 1),
        "target": TARGETS[problem].repeat(repeat, *[1] * (TARGETS[problem].ndim - 1)),
    }


@pytest.mark.parametrize("problem", ["multilabel", "key", "regression"])
@pytest.mark.parametrize("boosted", [False, True])
def test_overfits_two_items(front_end, extractor, cached, trainer, loader, problem, boosted):
    arm = extractor if boosted else None
    task = make_task(front_end, arm, problem, max_steps=60, learning_rate=1e-2)
    batch = cached(tones(problem), front_end, arm)
    runner = trainer(max_epochs=60)
    runner.fit(task, loader([batch]))
    runner.test(task, loader([batch]), verbose=False)
    assert task.values[BEST[problem]] > 0.98
    assert task.monitor == f"val/{BEST[problem]}"
    assert task.mode == "max"
    assert task.values.keys() == {metric.name for metric in task.metrics}


def test_multilabel_items(front_end, trainer, loader):
    task = make_task(front_end).eval()
    batch = tones("multilabel", repeat=5)
    batch["audio"] = batch["audio"] + 0.1 * torch.randn(batch["audio"].shape)
    trainer().test(task, loader([batch]), verbose=False)
    items = task.test_items
    assert items.targets == batch["target"].tolist()
    assert items.scores == {}
    assert task.values["roc_auc"] == pytest.approx(roc_auc_score(items.targets, items.predictions), abs=1e-9)
    assert len(items.examples) == 4
    assert items.examples["clip0"]["reference"] == ["piano"]
    assert set(items.examples["clip0"]["estimate"]) <= {"piano", "bass"}


def test_key_items(front_end, trainer, loader):
    task = make_task(front_end, problem="key").eval()
    trainer().test(task, loader([tones("key")]), verbose=False)
    items = task.test_items
    assert items.scores.keys() == {"key_score", "accuracy"}
    assert all(len(scores) == 2 for scores in items.scores.values())
    assert items.targets == items.predictions == []
    assert items.examples["clip1"]["reference"] == [KEYS[17]]
    assert items.examples["clip1"]["estimate"][0] in KEYS


def test_regression_predicts_in_the_target_s_unit(front_end, trainer, loader):
    task = make_task(front_end, problem="regression", max_steps=2)
    batch = tones("regression", repeat=3)
    trainer(max_epochs=1).fit(task, loader([batch]))
    trainer().test(task, loader([batch]), verbose=False)
    predictions = torch.tensor(task.test_items.predictions)
    assert (predictions[:, 0] - 105).abs().max() < 60
    assert task.values["r2"] == pytest.approx(r2_score(task.test_items.targets, predictions), abs=1e-5)
    prediction = task.eval().predict_step(batch, 0)["clip0"]
    assert prediction.keys() == {"tempo", "valence"}
    assert prediction["tempo"] == pytest.approx(float(predictions[0, 0]), rel=1e-4)


def test_classes_by_number(front_end):
    assert TaggingTask(front_end, classes=3).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("problem", "classes"), [("multilabel", None), ("multilabel", []), ("regression", 0), ("key", 12)]
)
def test_classes_that_do_not_fit_are_refused(front_end, problem, classes):
    with pytest.raises(ConfigError, match="classes"):
        TaggingTask(front_end, problem=problem, classes=classes)
