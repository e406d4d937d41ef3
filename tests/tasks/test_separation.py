"""Separation with both networks: learning, pairs, cached and online features, scores of tracks that come in parts."""

import math

import numpy as np
import pytest
import torch

from sonido_bench.errors import ConfigError, DataError, SonidoError
from sonido_bench.metrics.separation import csdr, usdr
from sonido_bench.nn.separation import separate, wiener_estimates
from sonido_bench.tasks import HTDemucsTask, UMXTask
from sonido_bench.tasks.generative import by_track

RATE = 8000
SOURCES = ("low", "high")
SMALL = {"sources": SOURCES, "sample_rate": RATE, "n_fft": 512}
UMX = {"hop_length": 128, "bandwidth_hz": 3000.0, "width": 32, "layers": 1}
HTDEMUCS = {"hidden": 8, "depth": 2, "t_layers": 1, "t_heads": 2, "segment_seconds": 1.0}


def make(kind, extractor=None, seed=0, **options):
    torch.manual_seed(seed)
    sizes = UMX if kind == "umx" else HTDEMUCS
    return (UMXTask if kind == "umx" else HTDemucsTask)(extractor, **(SMALL | sizes | options))


def stem_batch(clips=2, seconds=1.0, seed=0, names=("low", "high", "rest"), prefix="track"):
    """Notes of two registers; each clip is a track."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * RATE)) / RATE
    stems = torch.zeros(clips, len(names), 2, len(time))
    for place, hertz in enumerate((200, 900, 2500)[: len(names)]):
        notes = hertz * (1 + torch.rand(clips, 1, generator=generator) / 2)
        loudness = 0.05 + 0.2 * torch.rand(clips, 2, 1, generator=generator)
        stems[:, place] = loudness * torch.sin(2 * torch.pi * notes * time)[:, None]
    stems[:, 2:] *= 0.01
    clip = [f"{prefix}{number}" for number in range(clips)]
    mixture = stems.sum(dim=1)
    return {
        "clip": clip,
        "seconds": seconds,
        "sample_rate": RATE,
        "audio": mixture,
        "track": list(clip),
        "start": [0.0] * clips,
        "stem_names": tuple(names),
        "stems": stems,
        "mixture": mixture,
        "augmented": False,
    }


def with_cache(batch, extractor):
    rest = {name: value for name, value in batch.items() if name != "audio"}
    return {**rest, "features": extractor.extract(batch["mixture"].mean(1))}


both = pytest.mark.parametrize("kind", ["umx", "htdemucs"])


@both
@pytest.mark.parametrize("boosted", [False, True])
def test_overfits_two_items(kind, boosted, extractor, trainer, loader):
    steps, rate = (60, 1e-2) if kind == "umx" else (60, 3e-3)
    options = {"dropout": 0.0} if kind == "umx" else {"segment_seconds": 0.5}
    task = make(kind, extractor if boosted else None, max_steps=steps, learning_rate=rate, **options)
    batch = stem_batch(seconds=0.5)
    batch = with_cache(batch, extractor) if boosted else batch
    trainer(max_epochs=steps, limit_val_batches=0).fit(task, loader([batch]))
    trainer().test(task, loader([batch]), verbose=False)
    assert task.values["usdr"] > 8  # the mixture itself has about 0
    assert task.values["csdr"] > 8


@both
def test_step_0_equals_the_baseline(kind, extractor):
    batch = stem_batch()
    baseline, boosted = make(kind), make(kind, extractor)
    for mode in (True, False):
        losses = []
        for task in (baseline.train(mode), boosted.train(mode)):
            task.trainer = FakeTrainer()
            torch.manual_seed(1)
            losses.append(task.step(batch)[0])
        assert torch.equal(*losses)
    audio = batch["mixture"][:1]
    assert torch.equal(baseline.estimate(audio), boosted.estimate(audio))


class FakeTrainer:
    testing = False
    world_size = 1


@both
def test_cached_features_give_what_online_ones_give(kind, extractor):
    task = make(kind, extractor)
    task.trainer = FakeTrainer()
    awaken(task)
    batch = stem_batch()
    for mode in (True, False):
        task.train(mode)
        results = []
        for each in (batch, with_cache(batch, extractor)):
            torch.manual_seed(1)
            results.append(task.step(each)[0])
        assert torch.equal(*results)
    baseline = make(kind)
    baseline.trainer = FakeTrainer()
    assert not torch.equal(baseline.eval().step(batch)[0], results[0])


def awaken(task):
    """Let features matter before any training."""
    with torch.no_grad():
        for name, weight in task.model.named_parameters():
            if "projections" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))


@both
def test_estimate_is_what_the_test_scores(kind, extractor):
    task = make(kind, extractor).eval()
    task.trainer = FakeTrainer()
    awaken(task)
    batch = stem_batch(clips=1)
    _, (references, estimates) = task.step(batch)
    assert references.shape == estimates.shape == (1, 2, 2, RATE)
    found = task.estimate(batch["mixture"])
    torch.testing.assert_close(found, estimates, atol=1e-5, rtol=0)
    long = separate(task.estimate, torch.cat([batch["mixture"][0]] * 3, dim=1), task.chunking)
    assert long.shape == (2, 2, 3 * RATE)
    with pytest.raises(ValueError, match="evaluation mode"):
        task.train().estimate(batch["mixture"])


def test_htdemucs_separates_long_clips_in_segments(extractor):
    """Cached features of the whole clip are cut where the segments lie; without features it is ``separate``."""
    batch = stem_batch(clips=2, seconds=2.7)
    for arm in (None, extractor):
        task = make("htdemucs", arm).eval()
        awaken(task)
        _, (_, estimates) = task.step(batch)
        if arm is None:
            expected = [separate(task.estimate, mixture, task.chunking) for mixture in batch["mixture"]]
            assert torch.equal(estimates, torch.stack(expected))
        else:
            assert torch.equal(estimates, task.step(with_cache(batch, extractor))[1].estimates)
            shifted = with_cache(batch, extractor)
            shifted["features"] = {name: stream.roll(9, dims=1) for name, stream in shifted["features"].items()}
            assert not torch.allclose(estimates, task.step(shifted)[1].estimates, atol=1e-4)


def test_umx_gives_the_phase_of_the_mixture_or_a_wiener_filter(extractor):
    batch = stem_batch()
    plain, filtered = make("umx").eval(), make("umx", wiener_iterations=1).eval()
    for task in (plain, filtered):
        task.trainer = FakeTrainer()
    expected = wiener_estimates(plain.model, batch["mixture"], iterations=0)
    torch.testing.assert_close(plain.step(batch)[1].estimates, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(filtered.step(batch)[1].estimates, expected, atol=1e-6, rtol=0)  # a validation
    filtered.trainer.testing = True
    once = wiener_estimates(plain.model, batch["mixture"], iterations=1)
    assert torch.equal(filtered.step(batch)[1].estimates, once)
    assert torch.equal(filtered.estimate(batch["mixture"][:1])[0], once[0])
    for wrong in ({"sources": ("low",)}, {"channels": 3}):
        with pytest.raises(ConfigError, match="wiener_iterations"):
            make("umx", wiener_iterations=1, **wrong)


@both
def test_a_track_is_scored_as_a_whole_however_it_comes(kind, trainer, loader):
    whole = stem_batch(clips=1, seconds=3.4)
    whole["stems"][:, 0, :, :RATE] = 0
    whole["mixture"] = whole["audio"] = whole["stems"].sum(dim=1)
    parts = [part_of(whole, 0, 2 * RATE), part_of(whole, 2 * RATE, round(3.4 * RATE))]
    task = make(kind, segment_seconds=4.0) if kind == "htdemucs" else make(kind)
    trainer().test(task, loader([whole]), verbose=False)
    task.eval()
    references, estimates = (audio[0].detach().numpy() for audio in task.step(whole)[1])
    assert task.values["usdr"] == pytest.approx(usdr(references, estimates).mean(), abs=1e-6)
    assert task.values["csdr"] == pytest.approx(np.nanmean(csdr(references, estimates, RATE)), abs=1e-6)
    runner = trainer()
    runner.test(task, loader(parts), verbose=False)
    assert task.test_items.names == ["track0"]
    joined = [task.step(part)[1] for part in parts]
    estimates = torch.cat([each.estimates[0] for each in joined], dim=-1).detach().numpy()
    assert task.test_items.scores["usdr"] == pytest.approx([usdr(references, estimates).mean()], abs=1e-6)
    assert task.test_items.scores["csdr"] == pytest.approx([csdr(references, estimates, RATE).mean()], abs=1e-6)
    logged = runner.callback_metrics
    assert float(logged["test/usdr_mean/low"]) == pytest.approx(usdr(references, estimates)[0], abs=1e-5)
    assert {"test/csdr_median/high", "test/csdr_mean/low"} <= set(logged)


def part_of(batch, start, end):
    cut = {name: batch[name][..., start:end] for name in ("stems", "mixture", "audio")}
    clip = [f"{name} @ {start / RATE:.2f} s" for name in batch["track"]]
    return {**batch, **cut, "clip": clip, "start": [start / RATE], "seconds": (end - start) / RATE}


def test_parts_come_in_the_order_of_time():
    items = {"b": ("x", 2.0, "late"), "a": ("y", 0.0, "only"), "c": ("x", 0.0, "early")}
    assert by_track(items) == {"x": ["early", "late"], "y": ["only"]}


@both
def test_silent_stems_and_tracks_have_no_say(kind, trainer, loader):
    batch = stem_batch(clips=4)
    batch["stems"][0] = 0
    batch["stems"][1, 0] = 0
    batch["stems"][3, 1:] = 1e-5 * batch["stems"][3, 1:]  # nothing to separate: at -100 dB they do not count
    batch["mixture"] = batch["audio"] = batch["stems"].sum(dim=1)
    task = make(kind)
    trainer().test(task, loader([batch]), verbose=False)
    assert task.test_items.names == ["track1", "track2"]
    assert all(map(math.isfinite, task.test_items.scores["csdr"]))
    references, estimates = (audio[1].detach().numpy() for audio in task.eval().step(batch)[1])
    assert task.test_items.scores["usdr"][0] == pytest.approx(usdr(references, estimates)[1], abs=1e-6)
    silent = {**batch, **{name: torch.zeros_like(batch[name]) for name in ("stems", "mixture", "audio")}}
    with pytest.raises(DataError, match="usdr is not defined"):
        trainer().test(task, loader([silent]), verbose=False)


@both
def test_recordings_of_the_first_tracks(kind, trainer, loader):
    batches = [stem_batch(clips=1, seconds=1.0, seed=seed, prefix=f"song{seed}-") for seed in range(3)]
    task = make(kind)
    trainer().test(task, loader(batches), verbose=False)
    recordings = task.test_items.recordings
    assert list(recordings) == ["song0-0", "song1-0"]
    first = recordings["song0-0"]
    np.testing.assert_array_equal(first.input, batches[0]["mixture"][0].numpy())
    np.testing.assert_array_equal(first.references["high"], batches[0]["stems"][0, 1].numpy())
    assert set(first.estimates) == set(SOURCES)
    trainer().test(task, loader(batches[2:]), verbose=False)
    assert list(task.test_items.recordings) == ["song2-0"]


@both
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sample_rate": 44100}, "2 channels at 8000 Hz, the data have 2 at 44100 Hz"),
        ({"stem_names": ("low", "rest", "more")}, "no 'high', but low, rest, more"),
        ({"mixture": torch.zeros(2, 1, RATE)}, "2 channels at 8000 Hz, the data have 1 at 8000 Hz"),
    ],
)
def test_other_data_are_refused(kind, change, match):
    with pytest.raises(ConfigError, match=match):
        make(kind).step(stem_batch() | change)


@both
def test_a_batch_of_another_arm_is_refused(kind, extractor):
    batch = stem_batch()
    with pytest.raises(ConfigError, match="features none, the batch holds"):
        make(kind).step(with_cache(batch, extractor))
    with pytest.raises(ConfigError, match="the batch holds none"):
        make(kind, extractor).step({name: value for name, value in batch.items() if name != "audio"})


@both
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_audio_that_is_not_finite_is_named(kind, stage, trainer, loader):
    batch = stem_batch()
    batch["mixture"][1, 0, 5] = torch.nan
    with pytest.raises(DataError, match="mixture of clip track1 is not finite"):
        getattr(trainer(max_epochs=1), stage)(make(kind, max_steps=1), loader([batch]))


def test_a_loss_that_is_not_finite_stops_the_run(trainer, loader):
    task = make("htdemucs", max_steps=1)
    with torch.no_grad():
        next(task.model.decoder.parameters()).fill_(torch.inf)
    with pytest.raises(SonidoError, match="lower learning_rate"):
        trainer(max_epochs=1).fit(task, loader([stem_batch()]))


def test_umx_starts_at_the_statistics_of_the_training_set(trainer, loader):
    task = make("umx", max_steps=1, learning_rate=1e-9)
    batch = stem_batch()
    trainer(max_epochs=1).fit(task, loader([batch]))
    magnitudes = task.model.stft(centred=False)(batch["mixture"]).abs().mean(dim=1)
    expected = -magnitudes.mean(dim=(0, 2))[: len(task.model.networks["low"].input_mean)]
    torch.testing.assert_close(task.model.networks["low"].input_mean.detach(), expected, atol=1e-5, rtol=1e-4)
    before = task.statistics.mean.clone()
    trainer(max_epochs=1).fit(task, loader([stem_batch(seed=1)]))
    assert torch.equal(task.statistics.mean, before)


@both
def test_validation_and_test_use_the_average_of_the_weights(kind, trainer, loader, tmp_path):
    batch = stem_batch()
    task = make(kind, max_steps=3, ema_decay=0.5, learning_rate=1e-2)
    assert task.trained is task.model
    runner = trainer(max_epochs=3)
    runner.fit(task, loader([batch]))
    assert int(task.average.n_averaged) == 3
    assert not any(weight.requires_grad for weight in task.average.parameters())
    assert task.train().trained is task.model
    assert task.eval().trained is task.average.module
    runner.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    again = make(kind, seed=5, ema_decay=0.5)
    again.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    audio = batch["mixture"][:1]
    assert torch.equal(again.eval().estimate(audio), task.estimate(audio))
    plain = make(kind, seed=5).eval()
    plain.model.load_state_dict(task.model.state_dict())
    assert not torch.equal(plain.estimate(audio), task.estimate(audio))
    with pytest.raises(ConfigError, match="ema_decay"):
        make(kind, ema_decay=1.0)


@both
def test_arms_are_paired(kind, extractor, trainer, loader):
    """With the injection held at zero, both arms take the same steps."""
    weights = []
    for arm in (None, extractor):
        task = make(kind, arm, max_steps=4)
        for name, weight in task.model.named_parameters():
            weight.requires_grad_("inject" not in name)
        torch.manual_seed(1)
        trainer(max_epochs=2).fit(task, loader([stem_batch(seed=seed) for seed in range(2)]))
        weights.append(task.model.state_dict())
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())


@both
def test_mixed_precision(kind, extractor, trainer, loader):
    task = make(kind, extractor, max_steps=2)
    runner = trainer(max_epochs=1, precision="bf16-mixed")
    runner.fit(task, loader([stem_batch()]), loader([stem_batch()]))
    assert math.isfinite(float(runner.callback_metrics["val/usdr"]))
    assert task.monitor == "val/usdr"
