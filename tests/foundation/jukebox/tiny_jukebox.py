"""A Jukebox small enough for tests, with random weights: hops of 8, 32 and 128 samples, windows of 0.8 s and less."""

from dataclasses import replace

import torch

from sonido_bench.foundation.card import ModelCard
from sonido_bench.foundation.jukebox.model import Jukebox, JukeboxConfig, JukeboxFeatureConfig
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import LabelConfig, LyricsConfig, PriorConfig, UpsamplerConfig
from sonido_bench.foundation.jukebox.vqvae import VQVAE, VQVAEConfig

RATE, HOP, CODES = 8000, 128, 16
VQVAE_CONFIG = VQVAEConfig(
    sample_rate=RATE, width=4, depth=1, multipliers=(1, 1, 1), codebook_size=CODES, code_dim=6, linf_k=64
)
LABELS = LabelConfig(artists=5, genres=4, max_genres=2, timing_bins=8, min_seconds=0.2)
TOP = PriorConfig(
    name="top", hop_length=HOP, context=48, width=16, depth=6, heads=2, blocks=6, codebook_size=CODES,
    sample_rate=RATE, labels=LABELS, merged_decoder=True,
)  # fmt: skip
SUNG = replace(TOP, name="sung", attention_order=12, depth=16, lyrics=LyricsConfig(12, 79), merged_decoder=False)
MIDDLE = replace(
    TOP, name="middle", hop_length=32, context=64, blocks=8, depth=3, merged_decoder=False,
    labels=replace(LABELS, timing_bins=0, min_seconds=0.0), upsampler=UpsamplerConfig(width=8, depth=2),
)  # fmt: skip
BOTTOM = replace(MIDDLE, name="bottom", hop_length=8)
WHOLE = JukeboxConfig("tiny", VQVAE_CONFIG, (BOTTOM, MIDDLE, TOP), JukeboxFeatureConfig((2,), song_seconds=1.0))
CARD = ModelCard("tiny", "A test.", "Apache-2.0", "Nobody.", "sonido-bench", "None.", {"training": 0}, {}, "None.")


def vqvae(**changes):
    """One whose codes follow the audio."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VQVAE(replace(VQVAE_CONFIG, **changes))
        for parameter in model.parameters():
            if parameter.ndim == 3:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        model.initialise([music(2.0, batch=4, rate=model.config.sample_rate)])
    return model.eval()


def prior(config=TOP):
    """One that tells its inputs apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Prior(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.eval()


def jukebox():
    """The whole model, of these parts."""
    model = Jukebox(WHOLE)
    for part, one in ((model.vqvae, vqvae()), *zip(model.priors, map(prior, WHOLE.priors), strict=True)):
        part.load_state_dict(one.state_dict())
    return model.eval()


def music(seconds, batch=1, seed=0, rate=RATE):
    """Tones of random pitch, eight a second, in a little noise: ``(batch, samples)``, whole codes of the top level."""
    generator = torch.Generator().manual_seed(seed)
    samples, note = round(seconds * rate) // HOP * HOP, rate // 8
    pitches = 110 * 2 ** (torch.randint(0, 36, (batch, -(-samples // note)), generator=generator) / 12)
    levels = torch.rand(pitches.shape, generator=generator)
    phase = torch.cumsum(pitches.repeat_interleave(note, dim=1)[:, :samples].double() / rate, dim=1)
    tones = levels.repeat_interleave(note, dim=1)[:, :samples] * torch.sin(2 * torch.pi * phase).float()
    return 0.3 * tones + 0.01 * torch.randn(batch, samples, generator=generator)
