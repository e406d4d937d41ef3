import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.audio_phase import AudioTraining
from sonido_bench.foundation.sonido.config import WaveformDecoderConfig
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.sonido.stage_one import StageOne, StageOneTraining, WaveformStage
from sonido_bench.foundation.sonido.waveform_decoder import WaveformDecoder
from tests.foundation.sonido.tiny_model import music, stage_one_config

TRAINING = StageOneTraining(steps=6, batch_size=2, validate_every=3, warmup_steps=2, learning_rate=3e-3)


def stage_one(config=TRAINING, seed=0):
    torch.manual_seed(0)
    module = StageOne(HQVAE(stage_one_config()), config, seed)
    module.initialise([music(2.0, batch=2, seed=seed) for seed in range(2)])
    return module


def fit(module, steps=TRAINING.steps, **options):
    """Train on always the same music, which every network can come to know."""
    loader = DataLoader([music(1.0)[0]] * (2 * steps), batch_size=2)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, gradient_clip_val=1.0, **options,
    )  # fmt: skip
    trainer.fit(module, loader, DataLoader([music(1.0, seed=9)[0]]))
    return trainer


def test_latent_terms_are_warmed_up():
    config = StageOneTraining(steps=1000, batch_size=2)
    factors = [config.kl_factor(step) for step in (0, 100, 175, 250, 999)]
    assert factors == pytest.approx([0.02, 0.02, 0.51, 1.0, 1.0])


def test_the_temperature_falls_to_its_end():
    config = StageOneTraining(steps=1000, batch_size=2)
    assert [config.temperature_at(step) for step in (0, 350, 700, 999)] == pytest.approx([0.5, 0.3, 0.1, 0.1])


def test_the_learning_rate_rises_and_falls():
    config = StageOneTraining(steps=1000, batch_size=2, warmup_steps=100)
    factors = [stage_one(config).learning_rate_factor(step) for step in (0, 49, 99, 100, 550, 1000)]
    assert factors == pytest.approx([0.01, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_training_brings_the_loss_down_and_logs_every_metric():
    config = StageOneTraining(steps=60, batch_size=2, validate_every=60, warmup_steps=2, learning_rate=3e-3)
    module = stage_one(config)
    with torch.no_grad():
        before = module.eval().model(music(1.0)).metrics["mse"]
    trainer = fit(module.train(), 60)
    with torch.no_grad():
        assert module.eval().model(music(1.0)).metrics["mse"] < 0.7 * before
    metrics = trainer.callback_metrics
    for name in ("loss", "mse", "latent", "reconstruction", "auxiliary", "top/perplexity", "bottom/used"):
        assert {f"train/{name}", f"val/{name}"} <= metrics.keys()
    assert metrics["train/kl_factor"] == 1.0


def test_noise_follows_the_step_whatever_was_drawn_before():
    first, second = stage_one(), stage_one()
    fit(first)
    torch.randn(100)
    fit(second)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    other = stage_one(seed=1)
    fit(other)
    assert not torch.equal(first.model.codes("top"), other.model.codes("top"))


def test_training_needs_a_start_from_data():
    with pytest.raises(RuntimeError, match="call initialise"):
        fit(StageOne(HQVAE(stage_one_config()), TRAINING))


def test_that_it_started_from_data_is_in_the_checkpoint():
    module = StageOne(HQVAE(stage_one_config()), TRAINING)
    assert not module.initialised
    module.load_state_dict(stage_one().state_dict())
    assert module.initialised


def test_unused_codes_are_looked_for_until_the_temperature_is_at_its_end(monkeypatch):
    config = StageOneTraining(
        steps=10, batch_size=2, validate_every=10, restart_every=2, temperature_end=0.6, learning_rate=0.0001
    )
    module, steps = stage_one(config), []
    monkeypatch.setattr(module.model, "restart_dead_codes", lambda: steps.append(module.global_step))
    fit(module, 10)
    assert steps == [1, 3, 5]


def test_a_loss_that_is_not_finite_ends_training():
    module = stage_one()
    with torch.no_grad():
        next(module.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        fit(module)


def test_vectors_and_scalars_do_not_decay():
    decayed, rest = stage_one().parameter_groups()
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim <= 1 for parameter in rest["params"])
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)


def test_the_waveform_decoder_learns_and_the_autoencoder_does_not():
    autoencoder = stage_one().model
    before = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    torch.manual_seed(0)
    decoder = WaveformDecoder(WaveformDecoderConfig(width=8, depth=1, n_fft=256), autoencoder.front_end.channels, 64)
    config = AudioTraining(steps=12, batch_size=2, validate_every=12, warmup_steps=1, learning_rate=1e-2)
    module = WaveformStage(decoder, autoencoder, config)
    assert all(name.startswith("model.") for name in module.state_dict())
    with torch.no_grad():
        start = module._loss(music(1.0))
    fit(module, 12)
    with torch.no_grad():
        assert module._loss(music(1.0)) < start
    assert all(torch.equal(value, before[name]) for name, value in autoencoder.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10, "validate_every": 4}, "steps must be a multiple of validate_every"),
        ({"steps": 0}, "steps must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"kl_hold": 0.5}, "kl_hold < kl_full"),
        ({"temperature": (0.5, 0.0)}, "temperature must be above 0"),
    ],
)
def test_wrong_training(options, message):
    with pytest.raises(ConfigError, match=message):
        StageOneTraining(**({"steps": 250, "batch_size": 2} | options))
