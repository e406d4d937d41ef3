"""What holds for every task, shown with the tagger: inputs, frozen models, checkpoints, pairs, set-level scores."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import average_precision_score

from sonido_bench.errors import ConfigError, DataError, SonidoError
from sonido_bench.tasks import TaggingTask


def audio_batch(clips=4, seed=0, classes=3, names="clip"):
    generator = torch.Generator().manual_seed(seed)
    return {
        "clip": [f"{names}{index}" for index in range(clips)],
        "seconds": 1.0,
        "sample_rate": 8000,
        "audio": 0.1 * torch.randn(clips, 2, 8000, generator=generator),
        "target": (torch.rand(clips, classes, generator=generator) < 0.5).float(),
    }


def tagging(front_end, extractor=None, seed=0, **options):
    torch.manual_seed(seed)
    return TaggingTask(front_end, extractor, classes=3, width=16, **options)


def test_online_and_cached_inputs_agree(front_end, extractor, cached):
    task = tagging(front_end, extractor)
    batch = audio_batch()
    online, stored = task.inputs(batch), task.inputs(cached(batch, front_end, extractor))
    assert torch.equal(online[0], stored[0])
    assert online[1].keys() == stored[1].keys() == {"slow", "fast"}
    for name, stream in online[1].items():
        assert torch.equal(stream, stored[1][name])
        assert stream.shape[:2] == online[0].shape[:2]


def test_audio_of_another_rate_is_resampled(front_end, extractor):
    batch = audio_batch() | {"sample_rate": 16000, "audio": torch.randn(2, 1, 16000), "clip": ["a", "b"]}
    front, features = tagging(front_end, extractor).inputs(batch)
    assert front.shape == (2, 32, 24)
    assert features["fast"].shape == (2, 32, 4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda batch: batch.pop("features"), r"features \{'slow': 6, 'fast': 4\}, the batch holds none"),
        (lambda batch: batch["features"].pop("slow"), r"the batch holds \{'fast': 4\}"),
        (lambda batch: batch["features"].update(more=torch.zeros(4, 3, 2)), "more"),
        (lambda batch: batch["features"].update(slow=torch.zeros(4, 3, 7)), "'slow': 7"),
        (lambda batch: batch.pop("front_end"), r"front_end \{'logmel': 24\}, the batch holds none"),
    ],
)
def test_batch_of_another_arm_is_refused(front_end, extractor, cached, change, match):
    batch = cached(audio_batch(), front_end, extractor)
    change(batch)
    with pytest.raises(ConfigError, match=match):
        tagging(front_end, extractor).inputs(batch)


def test_baseline_refuses_features(front_end, extractor, cached):
    with pytest.raises(ConfigError, match="features none, the batch holds"):
        tagging(front_end).inputs(cached(audio_batch(), front_end, extractor))


def test_front_end_needs_one_stream(extractor):
    with pytest.raises(ConfigError, match="one stream"):
        tagging(extractor)


def test_extractors_stay_frozen(front_end, extractor, trainer, loader):
    task = tagging(front_end, extractor, max_steps=4)
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    start = {name: value.clone() for name, value in task.model.state_dict().items()}
    trainer(max_epochs=2).fit(task, loader([audio_batch()] * 2))
    assert all(torch.equal(before[name], value) for name, value in extractor.state_dict().items())
    assert all(parameter.grad is None for parameter in extractor.parameters())
    assert not extractor.dropout.training
    changed = {name for name, value in task.model.state_dict().items() if not torch.equal(value, start[name])}
    assert {"embed.weight", "inject.injection.projections.slow.weight", "normalise.mean"} <= changed


def test_arms_are_paired(front_end, extractor, trainer, loader, cached):
    """Same initial weights, same masks: with the injection held at zero, both arms take the same steps."""
    weights = []
    for arm in (None, extractor):
        task = tagging(front_end, arm, max_steps=6)
        if arm is not None:
            task.model.inject.requires_grad_(False)
        torch.manual_seed(1)
        batches = [cached(audio_batch(seed=seed), front_end, arm) for seed in range(3)]
        trainer(max_epochs=2).fit(task, loader(batches))
        weights.append(task.model.state_dict())
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())


def test_checkpoint_round_trip(front_end, extractor, trainer, loader, tmp_path):
    task = tagging(front_end, extractor, max_steps=2)
    keep = ModelCheckpoint(tmp_path, "best", monitor=task.monitor, mode=task.mode, save_weights_only=True)
    runner = trainer(max_epochs=1, callbacks=[keep], enable_checkpointing=True)
    runner.fit(task, loader([audio_batch()]), loader([audio_batch()]))
    stored = torch.load(keep.best_model_path, weights_only=True)
    assert not [name for name in stored["state_dict"] if name.startswith(("front_end.", "extractor."))]
    assert stored["fingerprints"] == {"front_end": front_end.fingerprint(), "extractor": extractor.fingerprint()}
    again = TaggingTask.load_from_checkpoint(
        keep.best_model_path, front_end=front_end, extractor=extractor, classes=3, width=16
    )
    assert torch.equal(again.eval()(*again.inputs(audio_batch())), task.eval()(*task.inputs(audio_batch())))


def test_checkpoint_of_another_extractor_is_refused(front_end, extractor, other_extractor):
    checkpoint = {"state_dict": tagging(front_end, extractor).state_dict()}
    tagging(front_end, extractor).on_save_checkpoint(checkpoint)
    for other in (other_extractor, None):
        with pytest.raises(ConfigError, match=r"trained with extractor [0-9a-f]{12}"):
            tagging(front_end, other).on_load_checkpoint(dict(checkpoint))


def test_only_frozen_weights_may_be_missing(front_end, extractor):
    checkpoint = {"state_dict": tagging(front_end, extractor).state_dict()}
    tagging(front_end, extractor).on_save_checkpoint(checkpoint)
    del checkpoint["state_dict"]["model.embed.weight"]
    task = tagging(front_end, extractor)
    task.on_load_checkpoint(checkpoint)
    with pytest.raises(RuntimeError, match=r"model\.embed\.weight"):
        task.load_state_dict(checkpoint["state_dict"])


def test_validation_scores_the_set_not_its_batches(front_end, trainer, loader):
    task = tagging(front_end, max_steps=1).eval()
    batches = [audio_batch(6, seed=seed, names=f"{seed}-") for seed in range(4)]
    runner = trainer()
    runner.validate(task, loader(batches), verbose=False)
    targets = [batch["target"] for batch in batches]
    with torch.no_grad():
        predictions = [task(*task.inputs(batch)) for batch in batches]
    whole = average_precision_score(torch.cat(targets), torch.cat(predictions))
    by_batch = sum(average_precision_score(t, p) for t, p in zip(targets, predictions, strict=True)) / 4
    assert float(runner.callback_metrics["val/map"]) == pytest.approx(whole, abs=1e-6)
    assert abs(whole - by_batch) > 0.01


def test_a_repeated_clip_counts_once(front_end, trainer, loader):
    task = tagging(front_end, max_steps=1)
    trainer().test(task, loader([audio_batch(4), audio_batch(4)]), verbose=False)
    assert task.test_items.names == ["clip0", "clip1", "clip2", "clip3"]


def test_losses_and_scores_are_logged_at_each_validation(front_end, trainer, loader):
    task = tagging(front_end, max_steps=4)
    runner = trainer(max_epochs=2)
    runner.fit(task, loader([audio_batch()] * 2), loader([audio_batch()]))
    assert runner.callback_metrics.keys() == {"train/loss", "val/loss", "val/map", "val/roc_auc"}


def test_statistics_come_from_the_training_set_once(front_end, trainer, loader):
    task = tagging(front_end, max_steps=4)
    trainer(max_epochs=2).fit(task, loader([audio_batch(seed=1)]))
    front = task.inputs(audio_batch(seed=1))[0]
    assert torch.allclose(task.model.normalise.mean, front.double().mean((0, 1)))
    trainer(max_epochs=1).fit(task, loader([audio_batch(seed=2)]))
    assert torch.allclose(task.model.normalise.mean, front.double().mean((0, 1)))


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_audio_that_is_not_finite_is_named(front_end, trainer, loader, stage):
    batch = audio_batch()
    batch["audio"][2, 0, 100] = torch.nan
    with pytest.raises(DataError, match="front end of clip clip2 is not finite"):
        getattr(trainer(max_epochs=1), stage)(tagging(front_end, max_steps=1), loader([batch]))


def test_loss_that_is_not_finite_stops_the_run(front_end, trainer, loader):
    task = tagging(front_end, max_steps=1)
    with torch.no_grad():
        task.model.head[-1].bias.fill_(torch.inf)
    with pytest.raises(SonidoError, match="lower learning_rate"):
        trainer(max_epochs=1).fit(task, loader([audio_batch()]))


def test_undefined_score_is_an_error(front_end, trainer, loader):
    batch = audio_batch() | {"target": torch.zeros(4, 3)}
    task = tagging(front_end, max_steps=1)
    with pytest.raises(DataError, match="val/map is not defined on these 4"):
        trainer(max_epochs=1).fit(task, loader([audio_batch()]), loader([batch]))
    with pytest.raises(DataError, match="map is not defined on these 4 test clips"):
        trainer().test(task, loader([batch]))


def test_schedule_warms_up_and_ends_at_zero(front_end):
    task = tagging(front_end, max_steps=100, learning_rate=0.1)
    schedule = task.configure_optimizers()["lr_scheduler"]["scheduler"]
    rates = [schedule.lr_lambdas[0](step) for step in range(102)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[4] == 1
    assert rates[-1] == rates[100] == pytest.approx(0)
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_mixed_precision_leaves_the_scores_exact(front_end, extractor, trainer, loader):
    predictions = []
    for precision in ("32-true", "bf16-mixed"):
        task = tagging(front_end, extractor, max_steps=1)
        trainer(precision=precision).test(task, loader([audio_batch(8)]), verbose=False)
        predictions.append(torch.tensor(task.test_items.predictions))
    assert predictions[1].unique().numel() == 24
    assert torch.allclose(*predictions, atol=0.02)  # the extractors do run in mixed precision
