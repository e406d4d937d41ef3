"""A codec and a language model over its codes, small enough for tests, and something for them to hear."""

import math
from dataclasses import replace

import torch

from sonido_bench.foundation.card import ModelCard
from sonido_bench.foundation.codec.config import CodecConfig, QuantizerConfig, SEANetConfig
from sonido_bench.foundation.codec.language_model import LanguageModelConfig
from sonido_bench.foundation.codec.model import Codec
from sonido_bench.foundation.codec.music_codec import LayerConfig, MusicCodec, MusicCodecConfig

RATE = 4000
HOP = 40
DIM = 8
CONFIG = CodecConfig(
    "test",
    RATE,
    100,
    SEANetConfig(ratios=(2, 5, 4), dimension=DIM, filters=4, lstm_layers=1),
    QuantizerConfig(codebooks=3, codebook_size=16, kmeans_iterations=5),
)
LANGUAGE_MODEL = LanguageModelConfig(codebooks=3, codebook_size=16, width=12, depth=3, heads=2, mlp_ratio=2, context=40)
CARD = ModelCard(
    name="codec-test",
    description="Random weights, for tests.",
    licence="Apache-2.0",
    citation="None.",
    command="sonido-bench pretrain test.yaml",
    data="None.",
    seeds={"weights": 0},
    steps={"codec": 0},
    hardware="None.",
)


def tiny_codec(seed=0, initialised=True, **changes):
    """Return a codec in inference, with random weights; changes are of the quantiser."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = Codec(replace(CONFIG, quantizer=replace(CONFIG.quantizer, **changes))).eval()
        if initialised:
            codec.initialise(tones(4, 0.5))
    return codec


def tiny_config(**changes):
    """The language model sees 0.4 s; changes are of its configuration."""
    return MusicCodecConfig("codec-test", CONFIG, replace(LANGUAGE_MODEL, **changes), LayerConfig((2,)))


def tiny_music_codec(**changes):
    """Return the whole model in inference, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = MusicCodec(tiny_config(**changes))
        model.codec.load_state_dict(tiny_codec().state_dict())
    return model.eval()


def tones(batch=2, seconds=0.25, seed=0):
    """Chords of two random pitches in a little noise: ``(batch, samples)``."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * RATE)) / RATE
    pitches = 110 * 2 ** (torch.randint(0, 36, (batch, 2, 1), generator=generator) / 12)
    chords = torch.sin(2 * math.pi * pitches * time).mean(dim=1)
    return 0.4 * chords + 0.01 * torch.randn(batch, len(time), generator=generator)
