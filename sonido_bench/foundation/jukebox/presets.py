"""The published priors of Jukebox, and small ones.

Sizes as in OpenAI's jukebox/hparams.py (2020). The weights are not part of this package: they are under OpenAI's
Noncommercial Use License.
"""

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox.prior_config import (
    LabelConfig,
    LyricEncoderConfig,
    LyricsConfig,
    PriorConfig,
    UpsamplerConfig,
)

__all__ = ["PRIORS", "prior_preset"]


def _upsampler(name: str, hop_length: int, scale_residuals: bool) -> PriorConfig:
    return PriorConfig(
        name=name, hop_length=hop_length, context=8192, width=1920, depth=72, heads=1, blocks=128, init_scale=0.4,
        labels=LabelConfig(), upsampler=UpsamplerConfig(scale_residuals=scale_residuals),
    )  # fmt: skip


def _tiny_upsampler(name: str, hop_length: int, scale_residuals: bool) -> PriorConfig:
    return PriorConfig(
        name=name, hop_length=hop_length, context=64, width=32, depth=3, heads=1, blocks=8,
        labels=LabelConfig(artists=5, genres=4, max_genres=2),
        upsampler=UpsamplerConfig(width=16, depth=2, scale_residuals=scale_residuals), codebook_size=64,
    )  # fmt: skip


PRIORS: dict[str, PriorConfig] = {
    config.name: config
    for config in (
        PriorConfig(
            name="5b", hop_length=128, context=8192, width=4800, depth=72, heads=8, blocks=128, init_scale=0.1,
            labels=LabelConfig(timing_bins=128, min_seconds=60.0), merged_decoder=True,
        ),
        PriorConfig(
            name="5b_lyrics", hop_length=128, context=8192, width=4800, depth=79, heads=8, blocks=128,
            attention_order=10, init_scale=0.1, labels=LabelConfig(timing_bins=128, min_seconds=23.8),
            lyrics=LyricsConfig(512, 80, LyricEncoderConfig(width=1280, depth=18, heads=4, blocks=32)),
            merged_decoder=True,
        ),
        PriorConfig(
            name="1b_lyrics", hop_length=128, context=6144, width=2048, depth=72, heads=2, blocks=64,
            attention_order=12, init_scale=0.2,
            labels=LabelConfig("v3", artists=7898, genres=604, max_genres=1, timing_bins=64, min_seconds=17.84),
            lyrics=LyricsConfig(384, 79),
        ),
        _upsampler("upsampler_1", hop_length=32, scale_residuals=True),
        _upsampler("upsampler_0", hop_length=8, scale_residuals=False),
        PriorConfig(  # of 22.05 kHz and two levels; it knows no labels
            name="small", hop_length=256, context=8192, width=1024, depth=48, heads=1, blocks=64, init_scale=0.7,
            codebook_size=1024, sample_rate=22_050,
        ),
        PriorConfig(
            name="tiny", hop_length=128, context=64, width=32, depth=6, heads=2, blocks=8, codebook_size=64,
            labels=LabelConfig(artists=5, genres=4, max_genres=2, timing_bins=8, min_seconds=0.2),
            merged_decoder=True,
        ),
        PriorConfig(
            name="tiny_lyrics", hop_length=128, context=48, width=32, depth=16, heads=2, blocks=8, attention_order=12,
            labels=LabelConfig("v3", artists=5, genres=4, max_genres=1, timing_bins=8, min_seconds=0.2),
            lyrics=LyricsConfig(16, 79), codebook_size=64,
        ),
        _tiny_upsampler("tiny_upsampler_1", hop_length=32, scale_residuals=True),
        _tiny_upsampler("tiny_upsampler_0", hop_length=8, scale_residuals=False),
    )
}  # fmt: skip


def prior_preset(name: str) -> PriorConfig:
    """Return a prior's configuration.

    Args:
        name: ``5b``, ``5b_lyrics``, ``1b_lyrics``, ``upsampler_1`` (middle level), ``upsampler_0`` (bottom), ``small``,
            or ``tiny`` and its like for tests.

    Raises:
        ConfigError: If there is no such preset.
    """
    if name not in PRIORS:
        raise ConfigError(f"unknown Jukebox prior {name!r}; use one of: {', '.join(PRIORS)}")
    return PRIORS[name]
