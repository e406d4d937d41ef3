from dataclasses import replace

import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox.labels import SongLabels, label_vector
from sonido_bench.foundation.jukebox.presets import prior_preset
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import LyricEncoderConfig, LyricsConfig, attention_patterns
from sonido_bench.foundation.transformer.cache import KVCache
from sonido_bench.foundation.transformer.sampling import SamplingConfig

SEPARATE = replace(
    prior_preset("tiny"), name="tiny_5b_lyrics", depth=19, attention_order=10,
    lyrics=LyricsConfig(16, 80, LyricEncoderConfig(width=16, depth=3, heads=2, blocks=4)),
)  # fmt: skip
CONFIGS = {
    "tiny": prior_preset("tiny"),
    "in sequence": prior_preset("tiny_lyrics"),
    "separate": SEPARATE,
    "upsampler": prior_preset("tiny_upsampler_1"),
    "dense too": replace(prior_preset("tiny"), attention_order=9),
}
GREEDY = SamplingConfig(temperature=0)


@pytest.fixture(params=CONFIGS, scope="module")
def case(request):
    """A prior whose weights are large enough for everything to matter, and its inputs."""
    config = CONFIGS[request.param]
    torch.manual_seed(0)
    prior = Prior(config).eval()
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            parameter.copy_(0.15 * torch.randn_like(parameter) + ("norm" in name and name.endswith("weight")))
    lyrics = tuple(range(1, 60)) if config.lyrics else ()
    songs = [SongLabels.unknown(3.0), SongLabels(2 * 44_100, 2, (3,), lyrics)]
    labels = torch.stack([label_vector(config, song, offset=5000) for song in songs])
    codes = torch.randint(config.codebook_size, (2, config.context))
    above = torch.randint(config.codebook_size, (2, config.context // 4)) if config.upsampler else None
    return prior, codes, labels, above


@torch.no_grad()
def test_greedy_sampling_follows_the_full_forward_however_it_is_chunked(case):
    prior, codes, labels, above = case
    prompt, shift = codes[:, :19], prior.config.shift
    expected = prompt
    for _ in range(12):
        padded = torch.cat([expected, expected[:, :1]], dim=1)  # what stands last is not read
        best = prior(padded, labels, above).music[:, -1:, shift:].argmax(-1)
        expected = torch.cat([expected, best], dim=1)
    for chunk in (None, 1, 5):
        assert torch.equal(prior.sample(prompt, 12, labels, above, GREEDY, chunk=chunk), expected)


@pytest.mark.parametrize("chunks", [1, 7, 40])
@torch.no_grad()
def test_cached_logits_equal_the_full_ones(case, chunks):
    prior, codes, labels, above = case
    known = prior._conditions(codes, labels, above)
    read, cache = prior._read(codes[:, :-1], known), KVCache(prior.config.depth)
    parts = [prior.music.transformer(part, cache=cache, context=known.context) for part in read.split(chunks, dim=1)]
    logits = prior.music.logits(torch.cat(parts, dim=1), 0, known.bias)[:, prior.config.lyrics_in_sequence :]
    assert torch.allclose(logits, prior(codes, labels, above).music, atol=1e-5)


@torch.no_grad()
def test_short_windows_are_the_beginning_of_long_ones(case):
    prior, codes, labels, above = case
    layers = [0, 2, prior.config.depth]
    whole = prior.hidden(codes, layers, labels, above)
    for length in (1, 3, 21):
        part = prior.hidden(codes[:, :length], layers, labels, above)
        assert list(part) == layers
        for layer in layers:
            assert part[layer].shape == (2, length, prior.config.width)
            assert torch.allclose(part[layer], whole[layer][:, :length], atol=1e-5)


@torch.no_grad()
def test_a_frame_predicts_its_code_and_has_read_those_before(case):
    prior, codes, labels, above = case
    changed = codes.clone()
    changed[:, 11] = (changed[:, 11] + 1) % prior.config.codebook_size
    moved = (prior(codes, labels, above).music - prior(changed, labels, above).music).abs().amax((0, 2)) > 1e-6
    assert not moved[:12].any()
    assert moved[12]


@torch.no_grad()
def test_every_condition_matters(case):
    prior, codes, labels, above = case
    before = prior(codes, labels, above).music
    columns = [3, 4] + ([0, 1] if prior.config.labels.timing_bins else []) + ([-2] if prior.config.lyrics else [])
    for column in columns:  # the last character of all is read by nobody: an encoder's states are those before
        other = labels.clone()
        other[:, column] = {0: 300 * 44_100, 1: 60_000}.get(column, 1 + (labels[:, column] == 1).long())
        assert not torch.allclose(prior(codes, other, above).music, before, atol=1e-4), column
    if above is not None:
        assert not torch.allclose(prior(codes, labels, (above + 1) % 64).music, before, atol=1e-4)


def test_training_reaches_every_weight(case):
    prior, codes, labels, above = case
    cost = prior.loss(codes, labels, above)
    assert cost.metrics["bits_per_code"] == cost.bits_per_code
    cost.loss.backward()
    assert all(parameter.grad is not None for parameter in prior.parameters())
    prior.zero_grad()
    torch.manual_seed(0)
    fresh = Prior(prior.config).loss(codes, labels, above)
    vocabulary = prior.config.shift + prior.config.codebook_size
    assert fresh.bits_per_code.item() == pytest.approx(torch.tensor(vocabulary).log2().item(), rel=0.1)


def test_no_block_is_run_deeper_than_asked_and_a_shorter_model_is_the_beginning():
    config = CONFIGS["tiny"]
    prior, codes = Prior(config).eval(), torch.zeros(1, 9, dtype=torch.long)
    labels, runs = label_vector(config, SongLabels.unknown(3.0))[None], []
    for block in prior.music.transformer.blocks:
        block.register_forward_hook(lambda *_: runs.append(1))
    expected = prior.hidden(codes, [4], labels)[4]
    assert len(runs) == 4
    short = Prior(replace(config, depth=4)).eval()
    assert not short.load_state_dict(prior.state_dict(), strict=False).missing_keys
    assert torch.equal(short.hidden(codes, [4], labels)[4], expected)


@torch.no_grad()
def test_seeds_decide_and_progress_is_told():
    config, told = CONFIGS["in sequence"], []
    prior, nothing = Prior(config).eval(), torch.zeros(3, 0, dtype=torch.long)
    labels = label_vector(config, SongLabels.unknown(3.0)).repeat(3, 1)
    draws = [
        prior.sample(
            nothing, 20, labels, None, SamplingConfig(), torch.Generator().manual_seed(seed), progress=progress
        )
        for seed, progress in [(1, None), (1, lambda *now: told.append(now)), (2, None)]
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (3, 20)
    assert 0 <= draws[0].min() <= draws[0].max() < config.codebook_size
    assert told == [(step, 20) for step in range(1, 21)]


@torch.no_grad()
def test_bfloat16_autocast_is_close_to_float32():
    config = CONFIGS["separate"]
    torch.manual_seed(0)
    prior, codes = Prior(config).eval(), torch.randint(config.codebook_size, (1, 21))
    labels = label_vector(config, SongLabels.unknown(3.0))[None]
    expected = prior.hidden(codes, [19], labels)[19]
    with torch.autocast("cpu", torch.bfloat16):
        got = prior.hidden(codes, [19], labels)[19]
        assert prior.sample(codes, 3, labels).shape == (1, 24)
    assert (got - expected).norm() < 0.05 * expected.norm()


def test_orders():
    assert attention_patterns(2, 5) == ("row", "column", "previous_row", "row", "column")
    tenth = attention_patterns(10, 79)
    assert [index for index, name in enumerate(tenth) if name == "cross"] == [18, 28, 38, 48, 58, 68, 78]
    assert tenth[76:78] == ("column", "previous_row")
    twelfth = attention_patterns(12, 72)
    assert [index for index, name in enumerate(twelfth) if name == "prime"] == [15, 31, 63]
    assert [index for index, name in enumerate(twelfth) if name == "dense"] == [47]
    with pytest.raises(ConfigError, match="unknown attention order 3"):
        attention_patterns(3, 6)


def test_bad_input_is_refused():
    config = CONFIGS["tiny"]
    prior, codes = Prior(config), torch.zeros(1, 5, dtype=torch.long)
    labels = label_vector(config, SongLabels.unknown(3.0))[None]
    with pytest.raises(ValueError, match=r"wants codes \(batch, 1 to 64\), got \(1, 65\)"):
        prior(torch.zeros(1, 65, dtype=torch.long), labels)
    with pytest.raises(ValueError, match="and 60 new ones"):
        prior.sample(codes, 60, labels)
    with pytest.raises(ValueError, match=r"wants label vectors .*got none"):
        prior(codes)
    with pytest.raises(ValueError, match=r"got \(2, 6\)"):
        prior(codes, labels.repeat(2, 1))
    with pytest.raises(ValueError, match="wants no codes of a level above"):
        prior(codes, labels, codes)
    with pytest.raises(ValueError, match=r"songs of 0.2 s to less than 600 s, got one of 0.10 s"):
        prior(codes, torch.tensor([[4410, 0, 8192, 0, 0, -1]]))
    with pytest.raises(ConfigError, match="guidance 1"):
        prior.sample(codes, 3, labels, sampling=SamplingConfig(guidance=3.0))
    upsampler = Prior(CONFIGS["upsampler"])
    with pytest.raises(ValueError, match="cover 4"):
        upsampler(codes, labels, codes[:, :1])


def test_bad_configurations_are_refused():
    with pytest.raises(ConfigError, match="cannot be laid out in 7 blocks"):
        replace(CONFIGS["tiny"], blocks=7)
    with pytest.raises(ConfigError, match="wants a lyric encoder"):
        replace(CONFIGS["tiny"], attention_order=8, depth=10)
    with pytest.raises(ConfigError, match="wants lyrics in the sequence"):
        replace(CONFIGS["tiny"], attention_order=12, depth=16)
    with pytest.raises(ConfigError, match="is told no time"):
        replace(CONFIGS["upsampler"], labels=CONFIGS["tiny"].labels)
    with pytest.raises(ConfigError, match="come with labels"):
        replace(SEPARATE, labels=None)
    with pytest.raises(ConfigError, match="min_seconds < max_seconds"):
        replace(CONFIGS["tiny"].labels, min_seconds=700.0)
    with pytest.raises(ConfigError, match="one artist"):
        replace(CONFIGS["tiny"].labels, artists=0)
