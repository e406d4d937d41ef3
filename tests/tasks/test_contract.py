"""What a benchmark relies on, shown for every task with and without features."""

import inspect
import math

import pytest
import torch

import sonido_bench.tasks
from sonido_bench.benchmark.runner import count_parameters
from sonido_bench.errors import ConfigError
from sonido_bench.tasks import (
    CRAFx2Task,
    FeatureTask,
    FxNormWaveUNetTask,
    HTDemucsTask,
    MixWaveUNetTask,
    TaggingTask,
    TranscriptionTask,
    UMXTask,
)

RATE, SAMPLES = 8000, 8000
STEMS = ("vocals", "drums")
SEPARATION = {"sources": STEMS, "sample_rate": RATE, "n_fft": 512}
MIXING = {"stems": STEMS, "sample_rate": RATE}
SIZES = {
    TaggingTask: {"classes": 3, "width": 8},
    TranscriptionTask: {"width": 8},
    UMXTask: {**SEPARATION, "hop_length": 128, "bandwidth_hz": 3000.0, "width": 8, "layers": 1},
    HTDemucsTask: {**SEPARATION, "hidden": 8, "depth": 2, "t_layers": 1, "t_heads": 2, "segment_seconds": 1.0},
    MixWaveUNetTask: {**MIXING, "layers": 3, "growth": 4, "kernel_size": 5},
    FxNormWaveUNetTask: {**MIXING, "widths": [8, 8], "feature_hop": 64},
    CRAFx2Task: {
        **MIXING,
        **{"encoder_width": 8, "width": 8, "hidden": 8, "skip_width": 8, "blocks": 1, "repeats": 1},
        **{"recurrent_layers": 1, "expansion": 2},
    },
}


@pytest.fixture(params=SIZES, ids=lambda task: task.__name__)
def make(request, front_end):
    def build(extractor=None, seed=0, **options):
        own = {} if "sample_rate" in SIZES[request.param] else {"front_end": front_end}
        torch.manual_seed(seed)
        return request.param(extractor=extractor, **own, **SIZES[request.param], **options)

    return build


def batch(seed=0):
    """All that any task wants."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(SAMPLES) / RATE
    stems = 0.1 * torch.randn(2, 2, 2, SAMPLES, generator=generator) + 0.1 * torch.sin(2764 * time)
    return {
        "clip": ["a", "b"],
        "seconds": SAMPLES / RATE,
        "sample_rate": RATE,
        "audio": stems.sum(dim=1),
        "target": (torch.rand(2, 3, generator=generator) < 0.5).float(),
        "notes": [torch.tensor([[0.1, 0.5, 69.0, 100.0]])] * 2,
        "track": ["a", "b"],
        "start": [0.0, 0.0],
        "stem_names": STEMS,
        "stems": stems,
        "mixture": stems.sum(dim=1) * torch.tensor([1.0, 0.5])[:, None],
        "augmented": False,
    }


def tagged(value):
    """Every class has a clip with it and one without."""
    value["target"] = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    return value


def test_every_task_is_here():
    known = {getattr(sonido_bench.tasks, name) for name in sonido_bench.tasks.__all__} - {FeatureTask}
    assert set(SIZES) == known


def test_what_a_benchmark_gives_and_reads(make, extractor):
    task = make(extractor, max_steps=3)
    assert isinstance(task, FeatureTask)
    assert {"extractor", "max_steps", "learning_rate"} <= inspect.signature(type(task).__init__).parameters.keys()
    assert task.network
    assert task.target
    assert task.frozen["extractor"] is extractor
    assert task.monitor == f"val/{task.metrics[0].name}"
    baseline, boosted = (count_parameters(each) for each in (make(), task))
    assert 0 < baseline.trained < boosted.trained <= boosted.total
    assert boosted.extractor == sum(weight.numel() for weight in extractor.parameters())


@pytest.mark.parametrize("boosted", [False, True])
def test_train_validate_test(make, extractor, trainer, loader, boosted):
    arm = extractor if boosted else None
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    task = make(arm, max_steps=2)
    runner = trainer(max_epochs=2)
    runner.fit(task, loader([tagged(batch())]), loader([tagged(batch(1))]))
    assert {"train/loss", "val/loss", task.monitor} <= runner.callback_metrics.keys()
    runner = trainer()
    runner.test(task, loader([tagged(batch(2))]), verbose=False)
    assert list(task.values) == [metric.name for metric in task.metrics]
    assert all(map(math.isfinite, task.values.values()))
    assert task.test_items.names == ["a", "b"]
    for metric in task.metrics:
        if metric.aggregation == "mean":
            assert len(task.test_items.scores[metric.name]) == 2
    assert all(torch.equal(before[name], value) for name, value in extractor.state_dict().items())
    assert all(weight.grad is None for weight in extractor.parameters())


def test_an_untrained_arm_is_its_baseline(make, extractor, trainer, loader):
    values = []
    for arm in (None, extractor):
        task = make(arm)
        trainer().test(task, loader([tagged(batch())]), verbose=False)
        values.append(task.values)
    assert values[0] == values[1]


def test_checkpoints_hold_no_frozen_weights_and_fit_one_extractor(make, extractor, other_extractor):
    task = make(extractor)
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    assert not [name for name in checkpoint["state_dict"] if name.startswith(("front_end.", "extractor."))]
    assert checkpoint["fingerprints"]["extractor"] == extractor.fingerprint()
    again = make(extractor, seed=1)
    stored = dict(checkpoint)
    again.on_load_checkpoint(stored)
    again.load_state_dict(stored["state_dict"])
    assert all(torch.equal(value, task.state_dict()[name]) for name, value in again.state_dict().items())
    for other in (other_extractor, None):
        with pytest.raises(ConfigError, match=r"trained with extractor [0-9a-f]{12}"):
            make(other).on_load_checkpoint(dict(checkpoint))
