import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from sonido_bench.foundation.sonido.model import build_prior
from sonido_bench.foundation.sonido.stage_two import StageTwo
from sonido_bench.foundation.token_phase import TokenTraining
from tests.foundation.sonido.tiny_model import tiny_config

CONFIG = tiny_config(dropout=0.2)
CONDITIONED = tiny_config(condition_dim=4, condition_dropout=0.5)


def tokens(frames, batch=4, seed=0):
    return torch.randint(0, 32, (batch, frames, 2), generator=torch.Generator().manual_seed(seed))


def conditions(batch=4):
    return torch.nn.functional.one_hot(torch.arange(batch) % 4, 4).float()


def stage_two(level, steps, config=CONFIG):
    torch.manual_seed(0)
    training = TokenTraining(steps=steps, batch_size=4, validate_every=steps, warmup_steps=2, learning_rate=1e-2)
    return StageTwo(build_prior(config.prior(level), config.stage_one), training)


def fit(module, steps, **more):
    batch = {"top": tokens(24), "mid": tokens(48, seed=1), **more}
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


@pytest.mark.parametrize("level", ["top", "mid"])
def test_the_condition_reaches_the_transformer(level):
    module = stage_two(level, 1, CONDITIONED).eval()
    above = {"top": None, "mid": tokens(24)}[level]
    batch = {"top": tokens(24), "mid": tokens(48, seed=1), "condition": conditions()}
    cost = module._cost(batch).loss
    assert torch.equal(cost, module.model.loss(batch[level], above, conditions()).loss)
    assert not torch.equal(cost, module.model.loss(batch[level], above).loss)


def test_a_level_learns_what_only_the_condition_tells():
    constant = torch.arange(4)[:, None, None].expand(4, 24, 2)  # every item is one code, which its condition names
    module = stage_two("top", 60, tiny_config(condition_dim=4, condition_dropout=0.1))
    fit(module, 60, top=constant, condition=conditions())
    first = {"top": constant[:, :1], "condition": conditions()}
    with torch.no_grad():
        told = module.eval()._cost(first).nats_per_token
        others = module._cost({**first, "condition": conditions().roll(1, 0)}).nats_per_token
    assert told < 0.5 < 1.4 < others


def test_dropped_conditions_follow_the_step_and_not_what_was_drawn_before():
    weights = []
    for draws in (0, 7):
        module = stage_two("top", 4, CONDITIONED)
        torch.rand(draws)
        fit(module, 4, condition=conditions())
        weights.append(module.state_dict().values())
    assert all(map(torch.equal, *weights))
    draws = [torch.rand(8, generator=module.generator(moment)) for moment in (0, 0, 1, -1, -2)]
    assert torch.equal(draws[0], draws[1])
    assert len({tuple(draw.tolist()) for draw in draws}) == 4
    module.on_train_batch_start(None, 0)
    assert not torch.equal(torch.rand(8), torch.rand(8, generator=module.generator(module.global_step)))


def test_without_conditions_all_noise_is_drawn_as_ever():
    bidirectional = tiny_config(objective="masked", patterns=("bidirectional",), dropout=0.2)
    module = stage_two("top", 1, bidirectional).train()
    costs = []
    for cost in (lambda: module._cost({"top": tokens(24)}, 5), lambda: module.model.loss(tokens(24))):
        torch.manual_seed(3)
        costs.append(cost().loss)
    assert torch.equal(*costs)
