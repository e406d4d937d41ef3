import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from sonido_bench.foundation.codec.language_model import LanguageModel, LanguageModelConfig
from sonido_bench.foundation.codec.language_model_training import LanguageModelPhase
from sonido_bench.foundation.token_phase import TokenTraining

TRAINING = TokenTraining(steps=20, batch_size=2, learning_rate=1e-2, warmup_steps=2, validate_every=20)


def phase(**changes):
    torch.manual_seed(0)
    sizes = {"codebooks": 2, "codebook_size": 5, "width": 16, "depth": 1, "heads": 2, "context": 8, **changes}
    return LanguageModelPhase(LanguageModel(LanguageModelConfig(**sizes)), TRAINING)


def test_two_items_are_learned(tmp_path):
    generator = torch.Generator().manual_seed(1)
    items = [
        {"codes": torch.randint(5, (8, 2), generator=generator), "condition": torch.randn(3, generator=generator)}
        for _ in range(2)
    ]
    module = phase(condition_dim=3, condition_dropout=0.1)
    trainer = pl.Trainer(
        max_steps=20, val_check_interval=20, check_val_every_n_epoch=None, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(items * 20, batch_size=2), DataLoader(items, batch_size=2))
    metrics = trainer.callback_metrics
    assert metrics["val/bits_per_frame"] < 3.5  # 4.64 at first
    assert metrics["val/nats_codebook_1"] + metrics["val/nats_codebook_2"] == pytest.approx(
        2 * metrics["val/loss"].item(), rel=1e-5
    )


def test_noise_follows_from_the_moment():
    module = phase(condition_dim=3, condition_dropout=0.5).train()
    batch = {"codes": torch.zeros(30, 4, 2, dtype=torch.int16), "condition": torch.ones(30, 3)}
    costs = [module._cost(batch, moment).loss for moment in (1, 1, 2)]
    assert torch.equal(costs[0], costs[1])
    assert not torch.equal(costs[0], costs[2])


def test_a_loss_that_is_not_finite_stops_training():
    module = phase()
    with torch.no_grad():
        module.model.heads.weight.fill_(float("nan"))
    module.log_dict = lambda *_, **__: None
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        module.training_step({"codes": torch.zeros(1, 4, 2, dtype=torch.long)}, 0)
