import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.language_model import (
    PRESETS,
    LanguageModel,
    LanguageModelConfig,
    sinusoidal_positions,
)
from tests.foundation.codec.musicgen_decoder import musicgen_decoder

BOOKS, SIZE = 3, 7
CONFIG = LanguageModelConfig(
    codebooks=BOOKS, codebook_size=SIZE, width=16, depth=2, heads=2, mlp_ratio=2, context=12, condition_dim=5,
    condition_positions=3,
)  # fmt: skip
PATTERNS = ("parallel", "delay", "partial_delay", "flatten", "partial_flatten", "coarse_first")


def build(scale=4.0, **changes):
    """A model whose weights are large enough for everything to matter."""
    torch.manual_seed(0)
    model = LanguageModel(replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return model


def codes_of(frames, batch=2, seed=0):
    return torch.randint(SIZE, (batch, frames, BOOKS), generator=torch.Generator().manual_seed(seed))


# Code (t, k) may see code (u, j):
ALLOWED = {
    "parallel": lambda t, k, u, j: u < t,
    "delay": lambda t, k, u, j: u + j < t + k,
    "partial_delay": lambda t, k, u, j: u + (j > 0) < t + (k > 0),
    "flatten": lambda t, k, u, j: (u, j) < (t, k),
    "partial_flatten": lambda t, k, u, j: u < t or (u == t and j == 0 < k),
    "coarse_first": lambda t, k, u, j: (u < t and (j > 0) == (k > 0)) or (k > 0 and j == 0),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_logit_depends_on_exactly_the_codes_that_its_pattern_allows(name):
    model, frames = build(pattern=name, condition_dim=None), 4
    # frame u has code u in every codebook: the gradient of a row of the tables is that of one code
    logits = model(torch.arange(frames).view(1, -1, 1).expand(1, -1, BOOKS))
    weights = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    for t in range(frames):
        for k in range(BOOKS):
            (gradient,) = torch.autograd.grad(logits[0, t, k] @ weights, model.embedding.tables, retain_graph=True)
            reached = gradient.view(BOOKS, SIZE + 1, -1).abs().amax(2)[:, :frames].T > 0
            expected = [[ALLOWED[name](t, k, u, j) for j in range(BOOKS)] for u in range(frames)]
            assert reached.tolist() == expected, (t, k)


@pytest.fixture(scope="module")
def oracle():
    """A language model, and a decoder of transformers with its weights."""
    pytest.importorskip("transformers")
    model = build(codebooks=4, condition_dim=None)
    torch.manual_seed(1)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return model, musicgen_decoder(model)


@torch.no_grad()
def test_logits_and_activations_are_those_of_musicgen(oracle):
    model, theirs = oracle
    codes = torch.randint(SIZE, (2, 9, 4), generator=torch.Generator().manual_seed(2))
    start = torch.full((2, 1, 4), SIZE)
    flat = torch.cat([start, codes], dim=1).mT.reshape(8, -1)
    _, delayed = theirs.build_delay_pattern_mask(flat, pad_token_id=SIZE, max_length=9 + 4)
    output = theirs(delayed, output_hidden_states=True)
    logits = output.logits.view(2, 4, 13, SIZE)
    # code (t, k) is on place 1 + t + k, and the logits of the place before it are about it
    expected = torch.stack([logits[:, k, k : k + 9] for k in range(4)], dim=2)
    assert (model(codes) - expected).abs().max() < 1e-5
    hidden = model.hidden(codes, [0, 1])
    for layer in (0, 1):  # frame t has been read on place 1 + t + 3; transformers norms the last layer
        assert (hidden[layer] - output.hidden_states[layer][:, 4:]).abs().max() < 1e-5
    last = model.norm(model.hidden(codes, [2])[2])
    assert (last - output.hidden_states[2][:, 4:]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "count"), [("small", 318_871_552), ("medium", 1_384_424_448), ("large", 2_449_879_040)]
)
def test_parameters_are_musicgens_without_cross_attention(name, count):
    transformers = pytest.importorskip("transformers")
    config = PRESETS[name]
    sizes = {"hidden_size": config.width, "num_hidden_layers": config.depth, "num_attention_heads": config.heads}
    with torch.device("meta"):
        ours = LanguageModel(config)
        theirs = transformers.MusicgenForCausalLM(
            transformers.MusicgenDecoderConfig(**sizes, ffn_dim=4 * config.width, vocab_size=2048, num_codebooks=4)
        )
    assert sum(p.numel() for p in ours.parameters()) == count
    assert sum(p.numel() for n, p in theirs.named_parameters() if "encoder_attn" not in n) == count


def test_positions_by_hand():
    rows = sinusoidal_positions(5, 3, 6, torch.zeros(1))
    frequencies = [1.0, 0.01, 0.0001]
    for row, place in zip(rows.tolist(), (5, 6, 7), strict=True):
        expected = [math.cos(place * f) for f in frequencies] + [math.sin(place * f) for f in frequencies]
        assert row == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", PATTERNS)
def test_cross_entropy_counts_every_code_once(name):
    model, codes = build(pattern=name), codes_of(8)
    cost = model.cross_entropy(codes)
    log_shares = model(codes).log_softmax(-1)
    nats = torch.stack([-log_shares[..., k, :].gather(-1, codes[..., k : k + 1]).mean() for k in range(BOOKS)])
    assert torch.allclose(cost.per_codebook, nats, atol=1e-5)
    assert cost.loss.item() == pytest.approx(nats.mean().item(), abs=1e-5)
    assert cost.bits_per_frame.item() == pytest.approx(nats.sum().item() / math.log(2), abs=1e-4)


@torch.no_grad()
def test_a_model_that_knows_nothing_pays_the_uniform_price_in_every_pattern():
    for name in PATTERNS:
        model = build(pattern=name)
        model.heads.weight.zero_()
        cost = model.cross_entropy(codes_of(5))
        assert cost.bits_per_frame.item() == pytest.approx(BOOKS * math.log2(SIZE), rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("name", "ahead"), [("parallel", 0), ("delay", 2), ("partial_delay", 1), ("flatten", 0)])
def test_a_frame_has_been_read_whole_and_looks_ahead_no_further_than_documented(name, ahead):
    model, codes, frames, at = build(pattern=name), codes_of(10), 10, 6
    before = model.hidden(codes, [0, 2])
    for k in range(BOOKS):
        changed = codes.clone()
        changed[:, at, k] = (changed[:, at, k] + 1) % SIZE
        after = model.hidden(changed, [0, 2])
        moved = (before[2] - after[2]).abs().amax((0, 2)) > 1e-6
        delay = {"delay": k, "partial_delay": min(k, 1)}.get(name, 0)
        first = at - (ahead - delay)  # code k is read up to frame t + max(d) - d[k]
        assert moved.tolist() == [t >= first for t in range(frames)]
    assert before[2].shape == (2, frames, 16)


@torch.no_grad()
def test_no_block_is_run_deeper_than_asked():
    model, runs = build(), []
    for block in model.transformer.blocks:
        block.register_forward_hook(lambda *_: runs.append(1))
    assert list(model.hidden(codes_of(4), [1, 0])) == [0, 1]
    assert len(runs) == 1
    with pytest.raises(ValueError, match="layers must be some of 0 to 2"):
        model.hidden(codes_of(4), [3])


@torch.no_grad()
def test_conditions_matter_and_padding_is_none():
    model, codes = build(), codes_of(6)
    text = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(3))
    given = model(codes, text)
    assert not torch.allclose(given, model(codes), atol=1e-3)
    assert torch.allclose(given, model(codes, F.pad(text, (0, 0, 0, 1))), atol=1e-6)
    assert torch.equal(model(codes), model(codes, torch.zeros(2, 3, 5)))
    vector = model(codes, text[:, 0])
    assert torch.equal(vector, model(codes, text[:, :1]))
    expected = torch.cat([model.condition(text), model.no_condition.expand(2, 1, -1)], dim=1)
    assert torch.allclose(model.prefix(text, 2), expected)


def test_conditions_are_dropped_in_training_alone():
    model, codes = build(condition_dropout=0.5), codes_of(6, batch=400)
    condition = torch.randn(400, 5, generator=torch.Generator().manual_seed(3))
    shown = [model.train(training)(codes, condition, torch.Generator().manual_seed(4)) for training in (True, False)]
    none = model(codes)
    dropped = (shown[0] - none).abs().amax((1, 2, 3)) < 1e-6
    assert 0.4 < dropped.float().mean() < 0.6
    assert torch.allclose(shown[0][~dropped], shown[1][~dropped], atol=1e-5)
    assert ((shown[1] - none).abs().amax((1, 2, 3)) > 1e-6).all()
    again = model.train()(codes, condition, torch.Generator().manual_seed(4))
    assert torch.equal(again, shown[0])


def noisy_copy(codes, generator):
    """The same code with probability 3/4, else one of the other three: 1.2075 bits are new."""
    other = torch.randint(1, 4, codes.shape, generator=generator)
    return (codes + other * (torch.rand(codes.shape, generator=generator) < 0.25)) % 4


def within_frames(batch, generator):
    """The second code is a noisy copy of the first."""
    first = torch.randint(4, (batch, 6), generator=generator)
    return torch.stack([first, noisy_copy(first, generator)], dim=2)


def along_the_delay(batch, generator):
    """The first code is a noisy copy of the second one a frame before: of the same step, when it is delayed."""
    second = torch.randint(4, (batch, 7), generator=generator)
    return torch.stack([noisy_copy(second[:, :-1], generator), second[:, 1:]], dim=2)


COPY = 2 + 0.25 * math.log2(3) - 0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)  # 3.2075 bits a frame
EDGE = (4 + 5 * COPY) / 6  # nothing is known of the code before the first frame


@pytest.mark.parametrize(
    ("source", "name", "bits"),
    [
        (within_frames, "parallel", 4.0),
        (within_frames, "delay", COPY),
        (within_frames, "flatten", COPY),
        (along_the_delay, "parallel", EDGE),
        (along_the_delay, "delay", 4.0),
        (along_the_delay, "flatten", EDGE),
    ],
)
def test_training_reaches_the_entropy_that_the_pattern_can_reach(source, name, bits):
    torch.manual_seed(0)
    model = LanguageModel(
        LanguageModelConfig(codebooks=2, codebook_size=4, pattern=name, width=32, depth=1, heads=2, mlp_ratio=2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    generator = torch.Generator().manual_seed(1)
    for _ in range(150):
        optimizer.zero_grad()
        model.cross_entropy(source(64, generator)).loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = model.eval().cross_entropy(source(2000, generator)).bits_per_frame.item()
    assert found == pytest.approx(bits, abs=0.08)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "diagonal"}, "unknown pattern"),
        ({"delays": (0, 1)}, "for each of 3"),
        ({"codebook_size": 0}, "codebook_size must be 1 or more"),
        ({"context": 0}, "context"),
        ({"condition_positions": 0}, "condition_positions"),
        ({"width": 15}, "even number from 4 on, .* got 15"),
        ({"condition_dim": 0}, "condition_dim must be"),
        ({"condition_dropout": 1.5}, r"condition_dropout must be in \[0, 1\]"),
        ({"heads": 3}, "heads that divide"),
        ({"depth": 0}, "one block"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        LanguageModel(replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 4, BOOKS + 1, dtype=torch.long), r"1 to 12 frames, 3\), got torch.int64 \(2, 4, 4\)"),
        (torch.zeros(2, 4, BOOKS), "integer codes"),
        (torch.zeros(2, 0, BOOKS, dtype=torch.long), "1 to 12 frames"),
        (torch.zeros(2, 13, BOOKS, dtype=torch.long), "1 to 12 frames"),
        (torch.full((2, 4, BOOKS), SIZE), "from 0 to 6, got 7 to 7"),
        (torch.full((2, 4, BOOKS), -1), "from 0 to 6, got -1"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, message):
    model = build()
    for read in (model.cross_entropy, lambda codes: model.hidden(codes, [1])):
        with pytest.raises(ValueError, match=message):
            read(codes)


def test_conditions_that_do_not_fit_are_refused():
    model, codes = build(), codes_of(4)
    for shape in ((2, 4), (1, 5), (2, 4, 5), (2, 0, 5), (2, 1, 3, 5), (5,)):
        with pytest.raises(ValueError, match=r"expected conditions \(2, 1 to 3, 5\) or \(2, 5\)"):
            model(codes, torch.ones(shape))
    with pytest.raises(ValueError, match="takes no condition"):
        build(condition_dim=None)(codes, torch.ones(2, 5))
