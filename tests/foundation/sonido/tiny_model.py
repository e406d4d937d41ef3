"""A SoniDo model small enough for tests, with random weights."""

import math
from dataclasses import replace

import torch

from sonido_bench.foundation.card import ModelCard
from sonido_bench.foundation.sonido.blocks import ResidualBlock
from sonido_bench.foundation.sonido.config import (
    FeatureConfig,
    FrontEndConfig,
    LevelConfig,
    PriorConfig,
    SonidoConfig,
    StageOneConfig,
    WaveformDecoderConfig,
)
from sonido_bench.foundation.sonido.model import Sonido

RATE = 8000
HOP = 256  # of top; mid has half, bottom a quarter
CARD = ModelCard(
    name="sonido-test",
    description="Random weights, for tests.",
    licence="Apache-2.0",
    citation="None.",
    command="sonido-bench pretrain test.yaml",
    data="None.",
    seeds={"weights": 0},
    steps={"stage one": 0, "prior top": 1000},
    hardware="None.",
    curves=({"step": 10, "loss": 1.25},),
    gate=({"probe": "key", "tokens": 0.5, "log-mel": 0.25},),
    limits=("It knows nothing.",),
    differences=("All.",),
)


def stage_one_config():
    sizes = {"width": 16, "depth": 1, "codebook_size": 32, "code_dim": 4}
    levels = (
        LevelConfig("top", stride=4, **sizes),
        LevelConfig("mid", stride=2, **sizes),
        LevelConfig("bottom", stride=1, **sizes),
    )
    front_end = FrontEndConfig("log_frequency", hop_length=64, bins_per_octave=12, octaves=4, f_min=110.0)
    return StageOneConfig(levels, RATE, front_end, bands=2)


def prior_config(**changes):
    top = PriorConfig(
        level="top", context=48, width=24, depth=3, heads=2, attention_width=24, mlp_width=32, patterns=("dense",),
        block_length=16,
    )  # fmt: skip
    return replace(top, **changes)


def tiny_config(**changes):
    """Top sees 1.5 s; mid, in the place of SoniDo's, half of that."""
    above = {"level": "mid", "above": "top", "width": 20, "attention_width": 20, "conditioner_width": 8}
    priors = (prior_config(**changes), prior_config(**above, conditioner_depth=2, **changes))
    return SonidoConfig(
        name="sonido-test",
        stage_one=stage_one_config(),
        priors=priors,
        features=FeatureConfig(layers=(2,)),
        waveform_decoder=WaveformDecoderConfig(width=16, depth=1, n_fft=256),
    )


def tiny_model(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Sonido(tiny_config(**changes)).eval()
        for block in model.stage_one.modules():
            if isinstance(block, ResidualBlock):  # before codes are put where latents are
                torch.nn.init.normal_(block.across.weight)
        model.stage_one.initialise([music(8.0, batch=2)])
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # what training starts from zero would hide the rest
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def music(seconds, batch=1, seed=0):
    """Tones of random pitch, eight a second, in a little noise: ``(batch, samples)``, whole frames of top."""
    generator = torch.Generator().manual_seed(seed)
    samples = round(seconds * RATE) // HOP * HOP
    notes = 110 * 2 ** (torch.randint(0, 36, (batch, -(-samples // 1000)), generator=generator) / 12)
    phase = torch.cumsum(notes.repeat_interleave(1000, dim=1)[:, :samples].double() / RATE, dim=1)
    noise = torch.randn(batch, samples, generator=generator)
    return 0.3 * torch.sin(2 * math.pi * phase).float() + 0.01 * noise
