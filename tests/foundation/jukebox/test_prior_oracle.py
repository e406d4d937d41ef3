"""Against the independent implementation in transformers (deprecated, up to 4.57)."""

from dataclasses import dataclass, replace

import pytest
import torch

from sonido_bench.foundation.jukebox.keys import differences, from_theirs, prior_weights
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import (
    LabelConfig,
    LyricEncoderConfig,
    LyricsConfig,
    PriorConfig,
    UpsamplerConfig,
    attention_patterns,
)
from sonido_bench.foundation.transformer.sampling import SamplingConfig

modeling = pytest.importorskip("transformers.models.deprecated.jukebox.modeling_jukebox")

NAMES = {
    "row": "block_attn", "column": "transpose_block_attn", "previous_row": "prev_block_attn", "dense": "dense_attn",
    "cross": "cross_attention", "prime": "prime_attn",
}  # fmt: skip
PUBLISHED = {
    2: "raw_column_previous_row_attention", 10: "large_separated_enc_dec_w_lyrics", 12: "enc_dec_with_lyrics"
}  # fmt: skip
LABELS = LabelConfig(artists=7, genres=6, max_genres=3, timing_bins=9, min_seconds=0.1, max_seconds=10.0)
TOP = PriorConfig(
    name="top", hop_length=128, context=40, width=32, depth=4, heads=2, blocks=8, codebook_size=11, sample_rate=8000,
    labels=LABELS, merged_decoder=True,
)  # fmt: skip
UPSAMPLER = replace(
    TOP, name="up", hop_length=32, labels=replace(LABELS, timing_bins=0), merged_decoder=False, heads=1,
    upsampler=UpsamplerConfig(width=12, depth=5, dilation_cycle=3, scale_residuals=True),
)  # fmt: skip
IN_SEQUENCE = replace(
    TOP, name="1b", depth=48, blocks=4, attention_order=12, lyrics=LyricsConfig(12, 9), merged_decoder=False
)
SEPARATE = replace(
    TOP, name="5b", depth=19, attention_order=10,
    lyrics=LyricsConfig(12, 9, LyricEncoderConfig(width=16, depth=3, heads=2, blocks=3)),
)  # fmt: skip
CASES = {
    "top": TOP,
    "top tied": replace(TOP, merged_decoder=False),
    "unlabelled": replace(TOP, labels=None),
    "dense": replace(TOP, attention_order=0),
    "row column previous dense": replace(TOP, attention_order=9),
    "middle upsampler": UPSAMPLER,
    "bottom upsampler": replace(UPSAMPLER, upsampler=replace(UPSAMPLER.upsampler, scale_residuals=False)),
    "lyrics in sequence": IN_SEQUENCE,
    "lyrics in sequence, order 2": replace(IN_SEQUENCE, attention_order=2, depth=4),
    "separate lyrics": SEPARATE,
    "separate lyrics, order 8": replace(SEPARATE, attention_order=8, depth=10),
}


def their_config(config):
    """The same model in their words; without mask=True theirs sees the future."""
    lyrics, labels, up = config.lyrics, config.labels, config.upsampler
    encoder = lyrics.encoder if lyrics else None
    shared = {"mask": True, "nb_relevant_lyric_tokens": lyrics.tokens if lyrics else 0}
    arguments = {
        **shared, "level": 1 if up else 0, "attention_pattern": PUBLISHED.get(config.attention_order, "of the test"),
        "blocks": config.blocks, "num_layers": config.depth, "hidden_size": config.width, "n_heads": config.heads,
        "n_ctx": config.context, "music_vocab_size": config.codebook_size, "sampling_rate": config.sample_rate,
        "merged_decoder": config.merged_decoder, "is_encoder_decoder": config.lyrics_in_sequence > 0,
        "metadata_conditioning": labels is not None,
    }  # fmt: skip
    if labels:
        arguments |= {
            "metadata_dims": [labels.genres, labels.artists], "max_nb_genres": labels.max_genres,
            "timing_dims": labels.timing_bins, "min_duration": labels.min_seconds, "max_duration": labels.max_seconds,
        }  # fmt: skip
    if lyrics:
        arguments |= {"lyric_vocab_size": lyrics.vocabulary, "encoder_loss_fraction": lyrics.loss_fraction}
    if encoder:
        arguments["encoder_config"] = {
            **shared, "attention_pattern": PUBLISHED[2], "blocks": encoder.blocks, "num_layers": encoder.depth,
            "hidden_size": encoder.width, "n_heads": encoder.heads,
        }  # fmt: skip
    if up:
        arguments |= {
            "res_conv_width": up.width, "res_conv_depth": up.depth, "res_dilation_cycle": up.dilation_cycle,
            "res_dilation_growth_rate": up.dilation_growth, "conv_res_scale": up.scale_residuals,
        }  # fmt: skip
    return modeling.JukeboxPriorConfig(**arguments)


def translated(ours, theirs):
    """Their weights under our names; every one of them is used."""
    weights, state = prior_weights(ours.config, "hugging_face"), theirs.state_dict()
    assert not differences(weights, {name: tuple(tensor.shape) for name, tensor in state.items()})
    return from_theirs(weights, state.__getitem__)


@dataclass
class Pair:
    """One model twice, and what it is given."""

    ours: Prior
    theirs: torch.nn.Module
    inputs: tuple


def build(config, monkeypatch):
    patterns = attention_patterns(config.attention_order, config.depth)
    if config.attention_order not in PUBLISHED:  # their own list has but three that work
        monkeypatch.setitem(modeling.ATTENTION_PATTERNS, "of the test", lambda layer: NAMES[patterns[layer]])
    torch.manual_seed(0)
    theirs, ours = modeling.JukeboxPrior(their_config(config)).eval(), Prior(config).eval()
    assert [block.attn_func for block in theirs.prior.transformer._attn_mods] == [NAMES[name] for name in patterns]
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(0.1 * torch.randn_like(parameter) + norm)
    ours.load_state_dict(translated(ours, theirs))
    codes = torch.randint(config.codebook_size, (2, config.context))
    above = torch.randint(config.codebook_size, (2, config.context // 4)) if config.upsampler else None
    labels = None
    if config.labels:
        lyrics = torch.randint(config.lyrics.vocabulary, (2, config.lyrics.tokens)) if config.lyrics else codes[:, :0]
        known = torch.tensor([[30_001, 11_111, config.sample_length, 3, 2, 5, -1], [8000, 0, 5120, 0, 0, -1, -1]])
        known[:, 2] = config.sample_length
        labels = torch.cat([known, lyrics], dim=1)
    return Pair(ours, theirs, (codes, labels, above))


def their_answer(pair):
    """Loss, logits of music and of lyrics; theirs has no path for losses without lyrics."""
    codes, labels, above = pair.inputs
    theirs, config = pair.theirs, pair.ours.config
    conditions = [above] if above is not None else []
    if config.lyrics is None:
        bias, start, _ = theirs.get_cond(conditions, labels)
        loss, logits = theirs.prior(codes, bias, start, get_preds=True)
        return loss, logits, None
    # theirs takes a view of lyrics cut out of the labels, which works for one item alone
    encoder_loss = theirs.get_encoder_loss
    theirs.get_encoder_loss = lambda states, lyrics: encoder_loss(states, lyrics.contiguous())
    loss, metrics = theirs.forward_tokens(codes, conditions, labels, get_preds=True)
    tokens = config.lyrics.tokens
    if config.lyrics_in_sequence:
        return loss, metrics["preds"][:, tokens:], metrics["preds"][:, :tokens]
    return loss, metrics["preds"], theirs.encoder.lm_head(theirs.get_encoder_states(labels[:, -tokens:]))


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_losses_and_activations_are_theirs(name, monkeypatch):
    pair = build(CASES[name], monkeypatch)
    activations = []
    for block in pair.theirs.prior.transformer._attn_mods:
        block.register_forward_hook(lambda _, __, output: activations.append(output))
    loss, music, lyrics = their_answer(pair)
    ours, cost = pair.ours(*pair.inputs), pair.ours.loss(*pair.inputs)
    errors = {"music": (ours.music - music).abs().max().item(), "loss": (cost.loss - loss).abs().item()}
    if lyrics is not None:
        errors["lyrics"] = (ours.lyrics - lyrics).abs().max().item()
    else:
        assert ours.lyrics is None
    layers = [1, pair.ours.config.depth // 2, pair.ours.config.depth]
    codes, labels, above = pair.inputs
    hidden = pair.ours.hidden(codes, layers, labels, above)
    skipped = pair.ours.config.lyrics_in_sequence
    errors["hidden"] = max((hidden[n] - activations[n - 1][:, skipped:]).abs().max().item() for n in layers)
    print(name, {key: f"{error:.1e}" for key, error in errors.items()}, f"logits {music.std():.2f}")
    assert music.std() > 0.1
    assert max(errors.values()) < 2e-5


@pytest.mark.parametrize("name", ["top", "middle upsampler", "separate lyrics"])
@pytest.mark.parametrize("prompt", [0, 13])
@torch.no_grad()
def test_likeliest_continuation_is_theirs(name, prompt, monkeypatch):
    pair = build(CASES[name], monkeypatch)
    codes, labels, above = pair.inputs
    conditions = [above] if above is not None else None
    expected = pair.theirs.sample(2, codes[:, :prompt], conditions, labels, top_k=1, chunk_size=5, sample_tokens=30)
    got = pair.ours.sample(codes[:, :prompt], 30 - prompt, labels, above, SamplingConfig(temperature=0), chunk=5)
    assert torch.equal(got, expected)
