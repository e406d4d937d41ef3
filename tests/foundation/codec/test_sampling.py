from dataclasses import replace

import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.language_model import LanguageModel, LanguageModelConfig
from sonido_bench.foundation.codec.patterns import CodePattern
from sonido_bench.foundation.codec.sampling import sample
from sonido_bench.foundation.transformer.sampling import SamplingConfig
from sonido_bench.foundation.transformer.stepping import Stepper, read_prompt

BOOKS, SIZE = 3, 7
CONFIG = LanguageModelConfig(
    codebooks=BOOKS, codebook_size=SIZE, width=16, depth=2, heads=2, mlp_ratio=2, context=10, condition_dim=5
)
PATTERNS = ("parallel", "delay", "partial_delay", "flatten", "partial_flatten", "coarse_first")
GREEDY = SamplingConfig(temperature=0)


def build(**changes):
    torch.manual_seed(0)
    model = LanguageModel(replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    return model


def codes_of(frames, batch=2):
    return torch.randint(SIZE, (batch, frames, BOOKS), generator=torch.Generator().manual_seed(5))


def condition_of(batch=2):
    return torch.randn(batch, 5, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("name", PATTERNS)
def test_number_of_steps_is_exact(name, monkeypatch):
    model, calls, told = build(pattern=name), [], []
    model.transformer.register_forward_hook(lambda *_: calls.append(1))
    step_on = Stepper.__call__
    monkeypatch.setattr(Stepper, "__call__", lambda self, hidden: calls.append(1) or step_on(self, hidden))
    codes, steps = sample(model, 8, generator=torch.Generator().manual_seed(0), progress=lambda *at: told.append(at))
    expected = {"parallel": 8, "delay": 10, "partial_delay": 9, "flatten": 24}.get(name, 16)
    assert steps == len(calls) == expected == model.pattern.steps(8)
    assert told == [(step, expected) for step in range(1, expected + 1)]
    assert codes.shape == (1, 8, BOOKS)
    assert codes.min() >= 0
    assert codes.max() < SIZE


@torch.no_grad()
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("prompt", [0, 1, 4])
def test_what_is_drawn_greedily_is_the_likeliest_in_one_pass_over_the_whole(name, prompt):
    model, condition = build(pattern=name), condition_of()
    codes, steps = sample(model, 9, codes_of(prompt), condition, GREEDY)
    assert torch.equal(codes[:, :prompt], codes_of(prompt))
    assert torch.equal(codes[:, prompt:], model(codes, condition)[:, prompt:].argmax(-1))
    behind = {"delay": BOOKS - 1, "partial_delay": 1}.get(name, 0)
    assert steps == (9 - prompt) * {"flatten": 3, "partial_flatten": 2, "coarse_first": 2}.get(name, 1) + behind


@torch.no_grad()
@pytest.mark.parametrize("name", PATTERNS)
def test_logits_step_by_step_are_those_of_one_pass(name):
    model, codes, condition = build(pattern=name), codes_of(7), condition_of()
    prefix, steps = model.prefix(condition, 2), model.pattern.steps(7)
    begin, *others = model.embed(model.shifted(codes)[:, :steps]).split(1, dim=1)
    last, stepper = read_prompt(model.transformer, torch.cat([prefix, begin], dim=1), 1 + steps)
    states = [last, *(stepper(embedded[:, 0]) for embedded in others)]
    logits = torch.stack([model.next_logits(state) for state in states], dim=1)
    assert (model.pattern.revert(logits, 7) - model(codes, condition)).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["delay", "flatten"])
def test_guidance_is_the_formula(name):
    model, prompt, condition = build(pattern=name), codes_of(2, batch=64), condition_of(64)
    codes, _ = sample(model, 8, prompt, condition, replace(GREEDY, guidance=3.0))
    given, none = model(codes, condition), model(codes)
    assert torch.equal(codes[:, 2:], (none + 3.0 * (given - none))[:, 2:].argmax(-1))
    ignored, _ = sample(model, 8, prompt, condition, replace(GREEDY, guidance=0.0))
    assert torch.equal(ignored, sample(model, 8, prompt, None, GREEDY).codes)
    assert not torch.equal(ignored, codes)


def test_codes_are_drawn_as_often_as_the_model_says():
    model = build(context=2)
    drawn, _ = sample(model, 1, codes_of(0, batch=6000), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(codes_of(1, batch=1))[0, 0, 0].softmax(-1)
    assert torch.allclose(torch.bincount(drawn[:, 0, 0], minlength=SIZE) / 6000, expected, atol=0.025)
    few, _ = sample(model, 1, codes_of(0, batch=500), None, SamplingConfig(top_k=2), torch.Generator().manual_seed(0))
    assert sorted(few[:, 0, 0].unique().tolist()) == sorted(expected.topk(2).indices.tolist())


@torch.no_grad()
@pytest.mark.parametrize("prompt", [0, 3, 23])
def test_long_audio_is_drawn_window_by_window(prompt):
    model, condition = build(), condition_of()
    codes, steps = sample(model, 29, codes_of(prompt), condition, GREEDY, hop_fraction=0.6)
    assert codes.shape == (2, 29, BOOKS)
    # contexts of 10 frames, of which 4 are kept: start, known and end of every window
    windows = {
        0: [(0, 0, 10), (6, 10, 16), (12, 16, 22), (18, 22, 28), (24, 28, 29)],
        3: [(0, 3, 10), (6, 10, 16), (12, 16, 22), (18, 22, 28), (24, 28, 29)],
        23: [(19, 23, 29)],
    }[prompt]
    for start, known, end in windows:
        expected = model(codes[:, start:end], condition).argmax(-1)
        assert torch.equal(codes[:, known:end], expected[:, known - start :])
    assert steps == sum(end - known + BOOKS - 1 for _, known, end in windows)


def test_a_whole_context_may_be_new():
    codes, steps = sample(build(pattern="parallel"), 20, None, None, GREEDY, hop_fraction=1.0)
    assert steps == 20
    assert torch.equal(codes[:, :10], codes[:, 10:])


def test_sampling_is_the_generators():
    model = build()
    runs = [sample(model, 8, generator=torch.Generator().manual_seed(seed)).codes for seed in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_finished_prompt_is_given_back():
    assert torch.equal(sample(build(), 4, codes_of(4)).codes, codes_of(4))
    assert sample(build(), 4, codes_of(4)).steps == 0


def test_guidance_errors():
    with pytest.raises(ConfigError, match="guidance wants a condition"):
        sample(build(), 4, sampling=SamplingConfig(guidance=3.0))
    with pytest.raises(ValueError, match="takes no condition"):
        sample(build(condition_dim=None), 4, condition=condition_of(), sampling=SamplingConfig(guidance=3.0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frames": 0}, ValueError, "the 0 frames of the prompt, and one, got 0"),
        ({"frames": 3, "prompt": codes_of(4)}, ValueError, "the 4 frames of the prompt"),
        ({"frames": 6, "prompt": codes_of(4) + SIZE}, ValueError, "expected codes from 0 to 6"),
        ({"frames": 30, "prompt": torch.cat([codes_of(15), codes_of(2) + SIZE], 1)}, ValueError, "expected codes"),
        ({"frames": 6, "prompt": codes_of(4)[..., :2]}, ValueError, "expected integer codes"),
        ({"frames": 6, "prompt": torch.zeros(4, dtype=torch.long)}, ValueError, "expected integer codes"),
        ({"frames": 6, "prompt": codes_of(4), "condition": condition_of(3)}, ValueError, r"\(2, 1 to 1, 5\)"),
        ({"frames": 6, "hop_fraction": 0.0}, ConfigError, "hop_fraction"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sample(build(), **arguments)


@torch.no_grad()
def test_delays_may_be_chosen():
    model = build(delays=(0, 0, 1))
    assert model.pattern == CodePattern("delay", 3, (0, 0, 1))
    codes, steps = sample(model, 6, None, None, GREEDY)
    assert steps == 7
    assert torch.equal(codes, model(codes).argmax(-1))
