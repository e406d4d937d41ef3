import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.patterns import CodePattern

NAMES = ("parallel", "delay", "partial_delay", "flatten", "partial_flatten", "coarse_first")
SPECIAL = 99


@st.composite
def patterns(draw):
    name, codebooks = draw(st.sampled_from(NAMES)), draw(st.integers(1, 5))
    delays = None
    if name in ("delay", "coarse_first") and draw(st.booleans()):
        given_zeros = 2 if name == "coarse_first" else 1
        delays = tuple(0 if k < given_zeros else draw(st.integers(0, 6)) for k in range(codebooks))
    return CodePattern(name, codebooks, delays)


def codes_of(pattern, frames, batch=2):
    return torch.randint(0, 50, (batch, frames, pattern.codebooks), generator=torch.Generator().manual_seed(frames))


@given(patterns(), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_codes_come_back_and_every_step_has_one(pattern, frames):
    codes = codes_of(pattern, frames)
    tokens, valid = pattern.build(codes, SPECIAL)
    assert tokens.shape == (2, pattern.steps(frames), pattern.codebooks)
    assert tokens.dtype == torch.int64
    assert torch.equal(pattern.revert(tokens, frames), codes)
    assert int(valid.sum()) == frames * pattern.codebooks  # each code once: edges are not cropped
    assert valid.any(dim=1).all() or frames < 6  # longer delays than frames leave steps without codes
    assert torch.equal(tokens == SPECIAL, ~valid.expand_as(tokens))
    assert (pattern.places(frames).diff(dim=0) > 0).all()


@given(patterns(), st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_a_prompt_keeps_its_codes_when_it_is_continued(pattern, prompt, new):
    whole = codes_of(pattern, prompt + new)
    unknown = whole.clone()
    unknown[:, prompt:] = SPECIAL
    tokens, _ = pattern.build(unknown, SPECIAL)
    complete, valid = pattern.build(whole, SPECIAL)
    drawn = valid & (tokens == SPECIAL)  # (batch, steps, codebooks): what sampling has to fill
    assert int(drawn[0].sum()) == new * pattern.codebooks
    assert torch.equal(tokens[~drawn], complete[~drawn])
    tokens[drawn] = complete[drawn]
    assert torch.equal(pattern.revert(tokens, prompt + new), whole)


@pytest.mark.parametrize("frames", [1, 2, 9, 1500])
@pytest.mark.parametrize("codebooks", [1, 2, 4])
def test_number_of_steps(frames, codebooks):
    steps = {name: CodePattern(name, codebooks).steps(frames) for name in NAMES}
    more = codebooks > 1
    assert steps == {
        "parallel": frames,
        "delay": frames + codebooks - 1,
        "partial_delay": frames + more,
        "flatten": codebooks * frames,
        "partial_flatten": (1 + more) * frames,
        "coarse_first": (1 + more) * frames,
    }


def test_steps_of_delays_that_are_chosen():
    assert CodePattern("delay", 4, (0, 0, 1, 1)).steps(10) == 11
    assert CodePattern("coarse_first", 4, (0, 0, 1, 2)).steps(10) == 22


@pytest.mark.parametrize(
    ("pattern", "rows"),
    [
        (CodePattern("delay", 3), ["a b c . .", ". a b c .", ". . a b c"]),
        (CodePattern("delay", 3, (0, 0, 2)), ["a b c . .", "a b c . .", ". . a b c"]),
        (CodePattern("partial_delay", 3), ["a b c .", ". a b c", ". a b c"]),
        (CodePattern("parallel", 3), ["a b c"] * 3),
        (CodePattern("flatten", 3), ["a . . b . . c . .", ". a . . b . . c .", ". . a . . b . . c"]),
        (CodePattern("partial_flatten", 3), ["a . b . c .", ". a . b . c", ". a . b . c"]),
        (CodePattern("coarse_first", 3), ["a b c . . .", ". . . a b c", ". . . a b c"]),
        (CodePattern("coarse_first", 3, (0, 0, 1)), ["a b c . . . .", ". . . a b c .", ". . . . a b c"]),
    ],
)
def test_layout_drawn_by_hand(pattern, rows):
    codes = torch.arange(3).view(1, 3, 1).expand(1, 3, 3)
    tokens = pattern.build(codes, 3).tokens[0]
    assert [" ".join("abc."[token] for token in row) for row in tokens.T.tolist()] == rows


@pytest.mark.parametrize(("codebooks", "frames"), [(2, 2), (3, 5), (4, 4), (4, 9)])
def test_delay_is_that_of_transformers(musicgen, codebooks, frames):
    model = musicgen(codebooks)
    codes = torch.randint(0, 11, (2, frames, codebooks), generator=torch.Generator().manual_seed(0))
    start = torch.full((2, 1, codebooks), 11)
    for prompt in range(frames + 1):
        flat = torch.cat([start, codes[:, :prompt]], dim=1).mT.reshape(2 * codebooks, -1)
        _, mask = model.build_delay_pattern_mask(flat, pad_token_id=11, max_length=frames + codebooks)
        unknown = codes.clone()
        unknown[:, prompt:] = -1
        tokens = CodePattern("delay", codebooks).build(unknown, 11).tokens
        assert torch.equal(torch.cat([start, tokens], dim=1), mask.view(2, codebooks, -1).mT)


@pytest.fixture(scope="module")
def musicgen():
    transformers = pytest.importorskip("transformers")

    def build(codebooks):
        config = transformers.MusicgenDecoderConfig(
            vocab_size=11, num_codebooks=codebooks, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, ffn_dim=4
        )
        return transformers.MusicgenForCausalLM(config)

    return build


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("delays", 4), "unknown pattern 'delays'; use one of: parallel, delay"),
        (("delay", 0), "one codebook or more"),
        (("parallel", 2, (0, 1)), "no delays to choose"),
        (("delay", 3, (0, 1)), "a delay of 0 steps or more for each of 3"),
        (("delay", 2, (0, -1)), "a delay of 0 steps or more"),
        (("delay", 2, (1, 2)), "the first being 0"),
        (("coarse_first", 3, (0, 1, 2)), "0 among the others"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CodePattern(*arguments)


def test_shapes_that_do_not_fit_are_refused():
    pattern = CodePattern("delay", 4)
    for wrong in (torch.zeros(2, 4, 5, dtype=torch.long), torch.zeros(2, 5, 4), torch.zeros(5, 4, dtype=torch.long)):
        with pytest.raises(ValueError, match="expected integer codes"):
            pattern.build(wrong, SPECIAL)
    with pytest.raises(ValueError, match=r"8 steps, 4\) for 5 frames of delay"):
        pattern.revert(torch.zeros(2, 5, 4), 5)
    with pytest.raises(ValueError, match="0 frames or more"):
        pattern.steps(-1)
