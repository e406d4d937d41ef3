import math

import numpy as np
import pytest
import torch

from sonido_bench.audio import resample
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.metrics.mixing import MIXING_METRICS, mixing_scores
from sonido_bench.nn.mixing_loss import StereoLoss
from sonido_bench.tasks.crafx2 import CRAFx2Task
from sonido_bench.tasks.mix_wave_unet import FxNormWaveUNetTask, MixWaveUNetTask

RATE, SAMPLES = 16_000, 8_000
NAMES = ("vocals", "drums")
SIZES = {
    MixWaveUNetTask: {"layers": 4, "growth": 6, "kernel_size": 5},
    FxNormWaveUNetTask: {"widths": [8, 16], "feature_hop": 64},
    CRAFx2Task: {
        **{"encoder_width": 12, "width": 16, "hidden": 16, "skip_width": 8, "blocks": 2, "repeats": 1},
        **{"recurrent_layers": 1, "expansion": 2},
    },
}
every_network = pytest.mark.parametrize("network", SIZES)


def make_task(network=MixWaveUNetTask, extractor=None, **options):
    torch.manual_seed(0)
    return network(extractor, **(SIZES[network] | {"stems": NAMES, "sample_rate": RATE} | options))


def stem_batch(clips=2, samples=SAMPLES, tracks=None, starts=None):
    """Noises of another colour in each stem, and mixes of them with gains that differ by stem and channel."""
    generator = torch.Generator().manual_seed(0)
    stems = 0.1 * torch.randn(clips, 2, 2, samples, generator=generator)
    stems[:, 0, :, 1:] = 0.7 * (stems[:, 0, :, 1:] + stems[:, 0, :, :-1])
    stems[:, 1] *= torch.linspace(0.2, 1, samples)
    gains = torch.tensor([[0.9, 0.5], [0.3, 0.8]])[:, :, None]
    names = [f"clip{index}" for index in range(clips)]
    return {
        "clip": names,
        "seconds": samples / RATE,
        "sample_rate": RATE,
        "track": tracks or names,
        "start": starts or [0.0] * clips,
        "stem_names": NAMES,
        "stems": stems,
        "mixture": (gains * stems).sum(1),
        "augmented": False,
        "audio": stems.sum(1).mean(1, keepdim=True),
    }


def from_cache(batch, extractor):
    """The same batch with cached features; the baseline has none."""
    cached = {name: value for name, value in batch.items() if name != "audio"}
    if extractor is not None:
        cached["features"] = extractor.extract(resample(batch["audio"].mean(1), RATE, extractor.spec.sample_rate))
    return cached


@every_network
@pytest.mark.parametrize("boosted", [False, True])
def test_overfits_two_items(network, extractor, trainer, loader, boosted):
    arm = extractor if boosted else None
    task = make_task(network, arm, max_steps=60, learning_rate=2e-2)
    batches = loader([from_cache(stem_batch(), arm)])
    before, after = trainer(), trainer(max_epochs=60, check_val_every_n_epoch=60)
    before.validate(task, batches, verbose=False)
    after.fit(task, batches, batches)
    assert task.monitor == "val/spectral_mape"
    assert task.mode == "min"
    assert after.callback_metrics["val/loss"] < 0.06 * before.callback_metrics["val/loss"]
    assert after.callback_metrics[task.monitor] < 0.35 * before.callback_metrics[task.monitor]
    if boosted:
        assert all(layer.weight.abs().sum() > 0 for layer in task.model.inject.injection.projections.values())


@every_network
@pytest.mark.parametrize("loss", ["squared", "convergence", "channels", "waveform"])
def test_the_first_step_is_the_baselines(network, extractor, loss):
    losses, mixes = [], []
    for arm in (None, extractor):
        task = make_task(network, arm, loss=loss)
        torch.manual_seed(1)
        one, mix = task.step(stem_batch())
        losses.append(one)
        mixes.append(mix)
    assert torch.equal(*losses)
    assert torch.equal(*mixes)


@every_network
def test_cached_and_online_features_give_the_same_mix(network, extractor):
    task = make_task(network, extractor).eval()
    for projection in task.model.inject.injection.projections.values():
        torch.nn.init.normal_(projection.weight)
    batch = stem_batch()
    online, cached = task.step(batch)[1], task.step(from_cache(batch, extractor))[1]
    assert torch.equal(online, cached)
    with torch.no_grad():
        assert not torch.equal(make_task(network).eval().step(batch)[1], online)
    alone = task.estimate(batch["stems"][:1])
    torch.testing.assert_close(alone, online[:1], atol=1e-5, rtol=1e-4)
    assert torch.equal(task.predict_step(batch, 0)["clip1"], online[1])


def test_losses_are_those_that_they_are_called(extractor):
    batch = stem_batch()
    for loss, guard in (("squared", 0), ("convergence", 1), ("squared", 1)):
        task = make_task(loss=loss, guard_frames=guard)
        value, mix = task.step(batch)
        assert torch.equal(value, StereoLoss(loss, RATE, guard_frames=guard)(batch["mixture"], mix))
        value, mix = task.eval().step(batch)
        assert torch.equal(value, StereoLoss(loss, RATE)(batch["mixture"], mix))
    value, mix = make_task(loss="waveform").step(batch)
    assert float(value) == pytest.approx(float((batch["mixture"] - mix).abs().mean()))
    for guard in (0, 1):
        value, mix = make_task(loss="channels", guard_frames=guard).step(batch)
        loss, silent = StereoLoss("convergence", RATE, guard_frames=guard), torch.zeros_like(mix[:, :1])
        # Beside a silent channel, sum and difference are both the other one.
        alone = [
            loss(torch.cat([batch["mixture"][:, [channel]], silent], 1), torch.cat([mix[:, [channel]], silent], 1)) / 2
            for channel in (0, 1)
        ]
        torch.testing.assert_close(value, sum(alone), rtol=1e-4, atol=0)  # logarithms of faint bins, rounded


def test_only_the_loss_of_channels_cares_which_is_which():
    batch = stem_batch()
    swapped = {**batch, "mixture": batch["mixture"].flip(1)}
    for loss, cares in (("squared", False), ("convergence", False), ("channels", True)):
        here, there = (make_task(loss=loss).step(each)[0] for each in (batch, swapped))
        assert (abs(here - there) > 1e-3 * here) == cares


def test_scores_are_those_of_whole_tracks(extractor, trainer, loader):
    """Two tracks in clips of unequal length, and one that comes whole: as if each had come at once."""
    task = make_task(extractor=extractor, max_steps=1).eval()
    clips = []
    for track, lengths in {"a": (8000, 5000), "b": (6800,), "c": (7000, 7000, 3000)}.items():
        for place, samples in enumerate(lengths):
            clip = stem_batch(1, samples, [track], [float(sum(lengths[:place])) / RATE])
            clips.append({**clip, "clip": [track if len(lengths) == 1 else f"{track} @ {place}"]})
    held = []
    keep = task._keep
    task._keep = lambda batch, stage: (
        keep(batch, stage),
        held.append(sum(_is_audio(i) for i in task._gathered.values())),
    )
    trainer().test(task, loader(clips), verbose=False)
    assert task.test_items.names == ["a", "b", "c"]
    assert max(held) == 3  # of the longest track; those before it are scored
    with torch.no_grad():
        mixes = [task.step(clip)[1][0] for clip in clips[3:]]
    target, mix = torch.cat([clip["mixture"][0] for clip in clips[3:]], -1), torch.cat(mixes, -1)
    expected = mixing_scores(target.numpy(), mix.numpy(), RATE)
    found = {name: scores[2] for name, scores in task.test_items.scores.items()}
    assert [*found] == [*MIXING_METRICS, "stereo_loss"] == [metric.name for metric in task.metrics]
    assert not any(metric.higher_is_better for metric in task.metrics)
    assert found == pytest.approx(
        {name: expected[name] for name in MIXING_METRICS}
        | {"stereo_loss": float(StereoLoss("squared", RATE)(target[None], mix[None]))},
        rel=1e-5,
    )
    assert task.values["spectral_mape"] == pytest.approx(sum(task.test_items.scores["spectral_mape"]) / 3)
    excerpts = task.test_items.recordings
    assert [*excerpts] == ["a", "b"]
    assert excerpts["b"].references["mix"].shape == excerpts["b"].estimates["mix"].shape == (2, 6800)
    np.testing.assert_allclose(excerpts["b"].input, clips[2]["stems"][0].sum(0), atol=1e-6)


def _is_audio(item):
    return isinstance(item[2], tuple)


def test_targets_without_scores_are_left_out_of_all_arms(trainer, loader, extractor):
    silent, mono, short = stem_batch(1), stem_batch(1), stem_batch(1, 1600)
    silent["mixture"] = torch.zeros_like(silent["mixture"])
    mono["mixture"] = mono["mixture"].mean(1, keepdim=True).repeat(1, 2, 1)
    batches = [
        {**batch, "clip": [name], "track": [name]} for name, batch in zip("smx", (silent, mono, short), strict=True)
    ]
    kept = []
    for arm in (None, extractor):
        task = make_task(extractor=arm, max_steps=1)
        with pytest.warns(UserWarning, match="3 of 5 test tracks are left out, m the first"):
            trainer().test(task, loader([*batches, stem_batch(2)]), verbose=False)
        kept.append(task.test_items.names)
    assert kept == [["clip0", "clip1"]] * 2
    with pytest.raises(DataError, match="spectral_mape is not defined on these 0 test clips"):
        trainer().test(make_task(max_steps=1), loader([batches[0]]), verbose=False)
    with pytest.raises(DataError, match="val/spectral_mape is not defined on these 1"):
        trainer().validate(make_task(max_steps=1), loader([batches[2]]), verbose=False)


def test_data_of_other_stems_or_another_rate_are_refused():
    for change, match in (
        ({"stem_names": ("vocals", "bass")}, "vocals, drums at 16000 Hz, the data has vocals, bass at 16000 Hz"),
        ({"sample_rate": 44_100}, "at 44100 Hz"),
    ):
        with pytest.raises(ConfigError, match=match):
            make_task().step({**stem_batch(), **change})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"stems": []}, "stems of different names"),
        ({"stems": ["a", "a"]}, "stems of different names"),
        ({"guard_frames": -1}, "guard_frames"),
        ({"guard_frames": 3, "loss": "waveform"}, "waveform loss"),
        ({"ema_decay": 1.5}, "ema_decay"),
    ],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        make_task(**options)


def test_training_segments_that_are_too_short_are_refused():
    with pytest.raises(ConfigError, match=r"at least 0\.51 s for this loss, found 0\.20 s"):
        make_task(guard_frames=2).step(stem_batch(samples=3200))
    value, _ = make_task(guard_frames=2).eval().step(stem_batch(samples=3200))
    assert torch.isfinite(value)


def test_estimate_refuses_training_mode_and_other_shapes():
    with pytest.raises(ValueError, match=r"eval\(\) it"):
        make_task().estimate(torch.zeros(1, 2, 2, 100))
    for shape in ((1, 3, 2, 100), (2, 2, 100), (1, 2, 1, 100), (1, 2, 2, 0)):
        with pytest.raises(ValueError, match="expected stems of shape"):
            make_task().eval().estimate(torch.zeros(shape))


@pytest.mark.parametrize("part", ["stems", "mixture"])
def test_audio_that_is_not_finite_is_named(part, trainer, loader, extractor):
    batch = stem_batch()
    batch[part][1, ..., 40] = torch.nan
    with pytest.raises(DataError, match=f"{part} of clip clip1 is not finite"):
        trainer(max_epochs=1).fit(make_task(extractor=extractor, max_steps=1), loader([batch]))


def test_checkpoints_keep_the_average_and_leave_the_extractor_out(extractor, trainer, loader, tmp_path):
    task = make_task(extractor=extractor, max_steps=3, ema_decay=0.5)
    runner = trainer(max_epochs=3)
    runner.fit(task, loader([stem_batch()]), loader([stem_batch()]))
    runner.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [name for name in stored["state_dict"] if name.startswith("extractor.")]
    again = make_task(extractor=extractor, ema_decay=0.5)
    again.on_load_checkpoint(stored)
    again.load_state_dict(stored["state_dict"])
    stems = stem_batch()["stems"][:1]
    loaded, model = again.eval().estimate(stems), make_task(extractor=extractor).eval()
    model.model.load_state_dict(again.model.state_dict())
    assert not torch.equal(model.estimate(stems), loaded)  # the average is another network
    assert math.isfinite(float(loaded.sum()))
