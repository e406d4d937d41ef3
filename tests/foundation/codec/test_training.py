import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.codec.discriminator import MultiScaleSTFTDiscriminator, discriminator_loss
from sonido_bench.foundation.codec.training import CodecStage, CodecTraining
from tests.foundation.codec.tiny_codec import DIM, HOP, RATE, tiny_codec, tones

TRAINING = CodecTraining(steps=6, batch_size=2, validate_every=3, warmup_steps=1, learning_rate=3e-3)


def stage(config=TRAINING, adversary=False, codec=None, **options):
    torch.manual_seed(0)
    discriminator = MultiScaleSTFTDiscriminator((64, 32), filters=2) if adversary else None
    return CodecStage(codec or tiny_codec(initialised=False), config, discriminator=discriminator, **options)


def fit(module, steps=TRAINING.steps, ckpt_path=None):
    """Train on always the same two items."""
    loader = DataLoader(list(tones()) * steps, batch_size=2)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, loader, DataLoader(list(tones(1, seed=9))), ckpt_path=ckpt_path)
    return trainer


def same(first, second):
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def dependence(stream):
    """Stand in for the independence loss: how alike the codebooks' streams are, with noise."""
    assert stream.shape == (2, 3, DIM, round(0.25 * RATE) // HOP)
    return (stream[:, 0] * stream[:, 1]).mean().square() + 0.01 * torch.rand(()) * stream.square().mean()


def test_it_overfits_two_items_and_logs_every_metric():
    config = CodecTraining(steps=80, batch_size=2, validate_every=80, warmup_steps=5, learning_rate=5e-3)
    module = stage(config)
    module.model.initialise(tones())
    audio = tones()
    with torch.no_grad():
        before = module.mel_loss(audio, module.eval().model(audio).audio)
    trainer = fit(module.train(), 80)
    with torch.no_grad():
        assert module.mel_loss(audio, module.eval().model(audio).audio) < 0.5 * before
    metrics = trainer.callback_metrics
    for name in ("l1", "mel", "commitment", "perplexity", "perplexity_min", "used"):
        assert {f"train/{name}", f"val/{name}"} <= metrics.keys()
    assert {"val/loss", "val/si_snr", "train/gradient_l1", "train/gradient_mel"} <= metrics.keys()


@pytest.mark.parametrize("adversary", [False, True])
def test_training_in_pieces_is_training_at_a_stretch(tmp_path, adversary):
    options = {"adversary": adversary, "independence": dependence, "independence_start": 2, "independence_ramp": 3}
    whole, first, second = stage(**options), stage(**options), stage(**options)
    fit(whole)
    fit(first, 3).save_checkpoint(tmp_path / "half.ckpt")
    assert not same(first, whole)
    torch.randn(100)
    fit(second, ckpt_path=tmp_path / "half.ckpt")
    assert same(second, whole)


def test_codec_and_discriminator_learn_from_one_backward_pass_without_seeing_each_other():
    module, audio = stage(adversary=True, codec=tiny_codec()), tones()
    module._log = lambda *_: None
    estimate = module.eval().model(audio).audio.detach()
    module.train().training_step(audio, 0).backward()
    real, fake = module.discriminator(audio), module.discriminator(estimate)
    parameters = list(module.discriminator.parameters())
    expected = torch.autograd.grad(discriminator_loss(real, fake), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)
    assert all(parameter.grad is not None for parameter in module.model.parameters())


def test_the_adversary_waits_for_its_turn_while_the_discriminator_learns():
    config = CodecTraining(steps=6, batch_size=2, validate_every=3, warmup_steps=1, adversary_start=100)
    module = stage(config, adversary=True)
    before = [parameter.clone() for parameter in module.discriminator.parameters()]
    metrics = fit(module).callback_metrics
    assert "train/discriminator" in metrics
    assert "train/adversarial" not in metrics
    assert not all(map(torch.equal, before, module.discriminator.parameters()))
    assert "train/feature" in fit(stage(adversary=True)).callback_metrics


def test_the_independence_loss_starts_late_and_rises():
    module = stage(independence=dependence, independence_weight=4.0, independence_start=10, independence_ramp=4)
    factors = [module.independence_factor(step) for step in (0, 9, 10, 11, 13, 500)]
    assert factors == pytest.approx([0, 0, 1, 2, 4, 4])
    at_once = stage(independence=dependence, independence_weight=4.0, independence_start=2)
    assert [at_once.independence_factor(step) for step in (1, 2)] == [0, 4]


@pytest.mark.parametrize("stream", ["pre", "post", "straight_through"])
def test_a_trained_codec_is_trained_on_with_the_independence_loss(stream):
    codec = tiny_codec()
    start = codec.quantizer.codes.clone()
    codec.quantizer.initialise = pytest.fail  # its codes move on, and are not started again
    plain, module = stage(codec=tiny_codec()), stage(codec=codec, independence=dependence, stream=stream)
    fit(plain, 3)
    metrics = fit(module, 3).callback_metrics
    assert {"train/independence", "train/independence_weight"} <= metrics.keys()
    assert not torch.equal(codec.quantizer.codes, start)
    assert not torch.equal(plain.model.encoder.layers[0].conv.bias, codec.encoder.layers[0].conv.bias)


def test_audio_that_is_not_finite_and_a_loss_that_is_not_end_training():
    module = stage(codec=tiny_codec())
    with pytest.raises(DataError, match="expected finite samples"):
        module.training_step(torch.full((2, 400), torch.nan), 0)
    with torch.no_grad():
        module.model.decoder.layers[0].conv.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        fit(module)


def test_published_training():
    assert CodecTraining(steps=250, batch_size=2).samples(32_000, 640) == 32_000  # 1 s
    groups = stage(codec=tiny_codec()).configure_optimizers()["optimizer"].param_groups
    assert [(group["betas"], group["weight_decay"]) for group in groups] == [((0.5, 0.9), 0.0)] * 2


def test_wrong_training_is_refused():
    weights = ({"mel_weight": -1.0}, {"l1_weight": 0.0, "mel_weight": 0.0})
    for options in ({"adversary_start": -1}, {"mel_windows": ()}, {"mel_windows": (4, 64)}, {"num_mels": 0}, *weights):
        with pytest.raises(ConfigError, match="codec: "):
            CodecTraining(steps=250, batch_size=2, **options)
    with pytest.raises(ConfigError, match="segment_seconds and crops must be above 0"):
        CodecTraining(steps=250, batch_size=2, segment_seconds=0.0)
    with pytest.raises(ConfigError, match="must not be < 0"):
        stage(independence=dependence, independence_weight=-1.0)
