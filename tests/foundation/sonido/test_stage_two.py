import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from sonido_bench.foundation.sonido.model import build_prior
from sonido_bench.foundation.sonido.stage_two import StageTwo, StageTwoTraining
from tests.foundation.sonido.tiny_model import tiny_config

CONFIG = tiny_config(dropout=0.2)


def tokens(frames, batch=4, seed=0):
    return torch.randint(0, 32, (batch, frames, 2), generator=torch.Generator().manual_seed(seed))


def stage_two(level, steps):
    torch.manual_seed(0)
    training = StageTwoTraining(steps=steps, batch_size=4, validate_every=steps, warmup_steps=2, learning_rate=1e-2)
    return StageTwo(build_prior(CONFIG.prior(level), CONFIG.stage_one), training)


def fit(module, steps):
    batch = {"top": tokens(24), "mid": tokens(48, seed=1)}
    rows = [{level: values[row] for level, values in batch.items()} for row in range(4)]
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, gradient_clip_val=1.0, check_val_every_n_epoch=steps,
    )  # fmt: skip
    trainer.fit(module, DataLoader(rows, batch_size=4), DataLoader(rows, batch_size=4))
    return trainer


@pytest.mark.parametrize("level", ["top", "mid"])
def test_a_level_learns_from_its_tokens_and_those_above(level):
    module = stage_two(level, 40)
    batch = {"top": tokens(24), "mid": tokens(48, seed=1)}
    with torch.no_grad():
        start = module.eval()._cost(batch).loss
    metrics = fit(module.train(), 40).callback_metrics
    assert metrics["val/loss"] < start - 0.3
    assert {"train/loss", "train/nats_per_token", "val/nats_per_token"} <= metrics.keys()


def test_dropout_follows_the_step():
    first, second = stage_two("top", 3), stage_two("top", 3)
    fit(first, 3)
    torch.rand(7)
    fit(second, 3)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_tokens_of_few_bits_are_widened():
    module = stage_two("mid", 1).eval()
    batch = {"top": tokens(24), "mid": tokens(48)}
    narrow = {level: values.to(torch.uint8) for level, values in batch.items()}
    assert torch.equal(module._cost(narrow).loss, module._cost(batch).loss)
