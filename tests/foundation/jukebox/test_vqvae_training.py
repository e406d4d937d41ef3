import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox.vqvae_training import VQVAEStage, VQVAETraining
from tests.foundation.jukebox.tiny_vqvae import audio, vqvae

TRAINING = VQVAETraining(steps=6, batch_size=2, validate_every=3, warmup_steps=2, learning_rate=3e-3)


def stage(config=TRAINING, seed=0, **changes):
    module = VQVAEStage(vqvae(**changes), config, seed)
    module.initialise([audio(2, seed) for seed in range(2)])
    return module


def fit(module, steps=TRAINING.steps, **options):
    """Train on always the same audio, which every network can come to know."""
    loader = DataLoader([audio(1)[0]] * (2 * TRAINING.steps), batch_size=2)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, loader, DataLoader([audio(1, seed=9)[0]]), **options)
    return trainer


def equal(first, second):
    assert first.state_dict().keys() == second.state_dict().keys()
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_training_brings_the_loss_down_and_logs_every_metric():
    config = VQVAETraining(steps=60, batch_size=2, validate_every=60, warmup_steps=2, learning_rate=3e-3)
    module = stage(config)
    with torch.no_grad():
        before = module.eval().model(audio(1)).loss
    trainer = fit(module.train(), 60)
    with torch.no_grad():
        assert module.eval().model(audio(1)).loss < 0.9 * before  # noise, which hardly compresses
    for name in ("loss", "reconstruction", "spectral", "commitment", "level_2/spectral_convergence", "level_0/used"):
        assert {f"train/{name}", f"val/{name}"} <= trainer.callback_metrics.keys()


def test_in_pieces_it_learns_what_it_does_at_a_stretch(tmp_path):
    whole, half, rest = stage(), stage(), VQVAEStage(vqvae(seed=5), TRAINING)
    fit(whole)
    fit(half, 3).save_checkpoint(tmp_path / "half.ckpt")
    assert not equal(whole, half)
    torch.randn(100)
    fit(rest, ckpt_path=tmp_path / "half.ckpt")
    assert equal(whole, rest)
    counts = whole.model.codebooks[0].counts
    assert not torch.equal(counts, torch.ones_like(counts))


def test_bandwidths_codes_and_averages_are_in_the_checkpoint():
    fresh, module = VQVAEStage(vqvae(seed=1), TRAINING), stage()
    fit(module, 3)
    assert not fresh.initialised
    fresh.load_state_dict(module.state_dict())
    assert fresh.initialised
    assert equal(fresh, module)
    names = {name.removeprefix("model.codebooks.0.") for name in module.state_dict() if "codebooks.0" in name}
    assert names == {"codes", "counts", "sums", "initialised"}
    assert {"model.bandwidth_l2", "model.bandwidth_spectral"} <= module.state_dict().keys()
    assert float(module.model.bandwidth_l2) == pytest.approx(0.09, rel=0.1)


def test_noise_follows_the_seed_whatever_was_drawn_before():
    first = stage()
    torch.randn(100)
    second, other = stage(), stage(seed=1)
    for module in (first, second, other):
        fit(module, 3)
    assert equal(first, second)
    assert not torch.equal(first.model.codes(0), other.model.codes(0))


def test_validation_moves_no_code():
    module = stage().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.model(audio(2))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_training_needs_a_start_from_data():
    with pytest.raises(RuntimeError, match="call initialise"):
        fit(VQVAEStage(vqvae(), TRAINING))


def test_adam_is_the_published_one():
    configured = stage().configure_optimizers()
    groups = configured["optimizer"].param_groups
    assert all((group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.0) for group in groups)
    config = VQVAETraining(steps=250, batch_size=2)
    assert (config.learning_rate, config.warmup_steps) == (3e-4, 100)


def test_a_loss_that_is_not_finite_ends_training():
    module = stage()
    with torch.no_grad():
        next(module.model.decoders.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        fit(module)


def test_wrong_training():
    with pytest.raises(ConfigError, match="steps must be a multiple of validate_every"):
        VQVAETraining(steps=10, batch_size=2, validate_every=4)
    with pytest.raises(ConfigError, match="initial_batches must be above 0"):
        VQVAETraining(steps=250, batch_size=2, initial_batches=0)
