from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.sonido.config import PriorConfig
from sonido_bench.foundation.sonido.prior import Prior, hidden_spans
from sonido_bench.foundation.transformer.sampling import SamplingConfig

BOOKS, SIZE = 3, 7
CONFIG = PriorConfig(
    level="mid", context=20, width=16, depth=4, heads=2, attention_width=8, mlp_width=16, block_length=4,
    patterns=("row", "column", "previous_row", "dense"), above="top", conditioner_width=8, conditioner_depth=2,
    condition_dim=5,
)  # fmt: skip
MASKED = replace(CONFIG, objective="masked", patterns=("bidirectional",))
GREEDY = SamplingConfig(temperature=0)


def build(config=CONFIG, scale=8.0):
    """A prior whose weights are large enough for everything to matter."""
    torch.manual_seed(0)
    prior = Prior(config, BOOKS, SIZE, (2, 5, 2) if config.above else None).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return prior


@pytest.fixture(scope="module")
def prior():
    return build()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "tokens": torch.randint(SIZE, (2, 20, BOOKS), generator=generator),
        "above": torch.randint(5, (2, 10, 2), generator=generator),
        "condition": torch.randn(2, 5, generator=generator),
    }


def logits_after(prior, tokens, above, condition):
    """What the prior predicts behind tokens, from its last activations."""
    hidden = prior.hidden(tokens, [prior.config.depth], above, condition)[prior.config.depth][:, -1]
    return prior.head(prior.norm(hidden)).view(len(tokens), BOOKS, SIZE)


@torch.no_grad()
def test_a_frame_is_paid_for_by_the_state_that_hidden_gives_for_the_frame_before(prior, batch):
    tokens, above, condition = batch.values()
    paid = [n * prior.loss(tokens[:, :n], above, condition).nats_per_token for n in range(1, 21)]
    for n in range(1, 20):
        expected = F.cross_entropy(logits_after(prior, tokens[:, :n], above, condition).mT, tokens[:, n])
        assert (paid[n] - paid[n - 1]).item() == pytest.approx(expected.item(), abs=1e-4)


@torch.no_grad()
def test_a_frame_has_seen_itself_and_the_past_alone(prior, batch):
    before = prior.hidden(batch["tokens"], [0, 4], batch["above"])
    changed = batch["tokens"].clone()
    changed[:, 11] = (changed[:, 11] + 1) % SIZE
    after = prior.hidden(changed, [0, 4], batch["above"])
    moved = {layer: (before[layer] - after[layer]).abs().amax((0, 2)) > 1e-6 for layer in before}
    assert moved[0].nonzero().flatten().tolist() == [11]
    assert not moved[4][:11].any()
    assert moved[4][11]
    assert moved[4][12:].any()


@torch.no_grad()
def test_a_frame_has_place_and_conditioning_of_the_frame_that_it_predicts(prior, batch):
    tokens, above, condition = batch.values()
    upper, bias = prior.conditioner(above), prior.condition_bias(condition)[:, None]
    following = [*range(1, 20), 19]  # there is none behind the last
    expected = prior.embedding(tokens) + prior.positions[following] + upper[:, following] + bias
    assert torch.allclose(prior.hidden(tokens, [0], above, condition)[0], expected, atol=1e-6)


@torch.no_grad()
def test_start_of_the_tokens_has_the_activations_of_the_whole(prior, batch):
    whole = prior.hidden(batch["tokens"], [2, 4], batch["above"])
    for frames in (1, 7, 13):
        part = prior.hidden(batch["tokens"][:, :frames], [2, 4], batch["above"])
        assert all(torch.allclose(part[layer], whole[layer][:, :frames], atol=1e-5) for layer in (2, 4))


def test_no_block_is_run_deeper_than_asked(batch):
    prior, runs = build(), []
    for block in prior.transformer.blocks:
        block.register_forward_hook(lambda *_: runs.append(1))
    assert list(prior.hidden(batch["tokens"], [2, 1], batch["above"])) == [1, 2]
    assert len(runs) == 2


@pytest.mark.parametrize("horizon", [1, 4, 30])
def test_future_is_the_cross_entropy_against_the_histogram_of_what_follows(batch, horizon):
    prior = build(replace(CONFIG, horizon=horizon, horizon_weight=0.5))
    tokens, above, _ = batch.values()
    heads = []
    prior.head.register_forward_hook(lambda module, inputs, output: heads.append(output))
    loss = prior.loss(tokens, above)
    log_shares = heads[-1].view(2, 20, BOOKS, SIZE).log_softmax(-1)
    terms = []
    for i in range(20):
        histogram = F.one_hot(tokens[:, i : i + horizon], SIZE).float().mean(1)
        terms.append(-(histogram * log_shares[:, i]).sum(-1))
    assert torch.allclose(loss.future, torch.stack(terms).mean(), atol=1e-5)
    assert torch.allclose(loss.loss, loss.nats_per_token + 0.5 * loss.future)
    assert set(loss.metrics) == {"nats_per_token", "future"}
    assert not any(value.requires_grad for value in loss.metrics.values())


@torch.no_grad()
@pytest.mark.parametrize("prompt", [0, 1, 5, 8])
def test_cached_sampling_equals_the_full_forward(prior, batch, prompt):
    tokens, above, condition = batch.values()
    told = []
    drawn = prior.sample(
        tokens[:, :prompt], 19 - prompt, above, condition, GREEDY, progress=lambda *at: told.append(at)
    )
    assert torch.equal(drawn[:, :prompt], tokens[:, :prompt])
    assert told == [(step, 19 - prompt) for step in range(1, 20 - prompt)]
    for frame in range(max(prompt, 1), 19):
        expected = logits_after(prior, drawn[:, :frame], above, condition).argmax(-1)
        assert torch.equal(drawn[:, frame], expected)


@torch.no_grad()
def test_guidance_exaggerates_the_condition(prior, batch):
    tokens, above, condition = batch.values()
    config = replace(GREEDY, guidance=3.0)
    drawn = prior.sample(tokens[:, :3], 10, above, condition, config)
    for frame in range(3, 13):
        given, none = (logits_after(prior, drawn[:, :frame], above, one) for one in (condition, None))
        assert torch.equal(drawn[:, frame], (none + 3 * (given - none)).argmax(-1))
    ignored = prior.sample(tokens[:, :3], 10, above, condition, replace(GREEDY, guidance=0.0))
    assert torch.equal(ignored, prior.sample(tokens[:, :3], 10, above, None, GREEDY))


def test_sampling_is_the_generators(prior, batch):
    runs = [
        prior.sample(batch["tokens"][:, :2], 9, batch["above"], generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert runs[0].shape == (2, 11, BOOKS)


@torch.no_grad()
def test_conditions_are_dropped_at_their_rate_by_the_generator_in_training_alone():
    prior = build(replace(CONFIG, condition_dropout=0.3, above=None))
    tokens, condition = torch.zeros(4000, 1, BOOKS, dtype=torch.long), torch.randn(4000, 5)
    seen = []
    prior.condition_bias.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for seed in (0, 0, 1):
        prior.train().loss(tokens, condition=condition, generator=torch.Generator().manual_seed(seed))
    prior.eval().loss(tokens, condition=condition)
    prior.train().hidden(tokens, [0], condition=condition)
    dropped = (seen[0] == prior.no_condition).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(seen[0][~dropped], condition[~dropped])
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(seen[3], condition)
    assert torch.equal(seen[4], condition)


def test_everything_learns(batch):
    prior = build(replace(CONFIG, horizon=4, horizon_weight=0.5, condition_dropout=0.5, dropout=0.1)).train()
    generator = torch.Generator().manual_seed(1)
    prior.loss(batch["tokens"], batch["above"], batch["condition"], generator).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in prior.parameters())
    assert [name for name, parameter in prior.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("config", [CONFIG, MASKED], ids=["causal", "masked"])
def test_two_items_are_learned_by_heart(batch, config):
    prior = build(config, scale=1.0).train()
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        loss = prior.loss(batch["tokens"], batch["above"], batch["condition"], generator).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4  # of ln 7 = 1.95


@torch.no_grad()
def test_masked_prior_guesses_hidden_frames_from_both_sides(batch):
    prior = build(MASKED)
    tokens, above, condition = batch.values()
    hidden_frames = hidden_spans(2, 20, torch.Generator().manual_seed(3))
    assert hidden_frames.any(1).all()
    assert not hidden_frames.all()
    loss = prior.loss(tokens, above, condition, torch.Generator().manual_seed(3))
    embedded = prior.embedding(tokens)
    embedded[hidden_frames] = prior.special
    place = prior.positions + prior.conditioner(above) + prior.condition_bias(condition)[:, None]
    states = prior.norm(prior.transformer(embedded + place))[hidden_frames]
    expected = F.cross_entropy(prior.head(states).view(-1, SIZE), tokens[hidden_frames].flatten())
    assert loss.loss.item() == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_masked_prior_shows_all_tokens_to_hidden(batch):
    prior = build(MASKED)
    before = prior.hidden(batch["tokens"], [0, 4], batch["above"])
    changed = batch["tokens"].clone()
    changed[:, 11] = (changed[:, 11] + 1) % SIZE
    after = prior.hidden(changed, [0, 4], batch["above"])
    moved = {layer: (before[layer] - after[layer]).abs().amax((0, 2)) > 1e-6 for layer in before}
    assert moved[0].nonzero().flatten().tolist() == [11]
    assert moved[4].all()


def test_hidden_spans_are_whole_and_about_half():
    spans = hidden_spans(400, 200, torch.Generator().manual_seed(0))
    assert spans.float().mean().item() == pytest.approx(1 - (1 - 0.065) ** 10, abs=0.03)
    assert hidden_spans(5, 1).all()
    edges = F.pad(spans.int(), (1, 1)).diff(dim=1)
    lengths = (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]
    cut = (edges[:, 200] == -1).sum()  # the end of the sequence cuts spans
    assert (lengths < 10).sum() <= cut
    assert torch.equal(spans, hidden_spans(400, 200, torch.Generator().manual_seed(0)))


def test_mixed_precision_and_meta_device(batch):
    prior = build(replace(CONFIG, horizon=3, horizon_weight=0.1, checkpointing=True)).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = prior.loss(batch["tokens"], batch["above"], batch["condition"]).loss
    loss.backward()
    assert loss.dtype == torch.float32
    with torch.device("meta"):
        large = Prior(replace(CONFIG, context=8192, block_length=128, width=1024), 1, 2048, (1, 2048, 4))
        tokens = torch.zeros(1, 8192, 1, dtype=torch.long)
        assert large.hidden(tokens, [2], tokens[:, ::4])[2].shape == (1, 8192, 1024)


def test_contradictions_are_refused(prior, batch):
    with pytest.raises(ConfigError, match="conditioned on top"):
        Prior(CONFIG, BOOKS, SIZE, None)
    with pytest.raises(ConfigError, match="conditioned on None"):
        Prior(replace(CONFIG, above=None), BOOKS, SIZE, (2, 5, 2))
    with pytest.raises(ConfigError, match="horizon goes with objective causal"):
        Prior(replace(MASKED, horizon=3), BOOKS, SIZE, (2, 5, 2))
    with pytest.raises(ConfigError, match="masked and cannot sample"):
        build(MASKED).sample(batch["tokens"][:, :3], 2, batch["above"])
    with pytest.raises(ConfigError, match="guidance wants a condition"):
        prior.sample(batch["tokens"][:, :3], 2, batch["above"], sampling=SamplingConfig(guidance=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": torch.zeros(2, 21, BOOKS, dtype=torch.long)}, r"1 to 20 frames, 3\), got \(2, 21, 3\)"),
        ({"tokens": torch.zeros(2, 0, BOOKS, dtype=torch.long)}, "got"),
        ({"tokens": torch.zeros(2, 5, 4, dtype=torch.long)}, "got"),
        ({"tokens": torch.zeros(20, dtype=torch.long)}, "got"),
        ({"above": None}, "conditioned on top"),
        ({"above": torch.zeros(2, 9, 2, dtype=torch.long)}, "9 frames above cover 18 frames, not 20"),
        ({"condition": torch.zeros(2, 6)}, r"conditions of shape \(2, 5\), got \(2, 6\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(prior, batch, wrong, message):
    with pytest.raises(ValueError, match=message):
        prior.loss(**{**batch, **wrong})
    with pytest.raises(ValueError, match=message):
        prior.hidden(**{**batch, **wrong}, layers=[1])


def test_sampling_beyond_the_context_is_refused(prior, batch):
    with pytest.raises(ValueError, match="and 3 new frames"):
        prior.sample(batch["tokens"][:, :18], 3, batch["above"])
