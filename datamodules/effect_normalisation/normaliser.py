"""The chain of effects that brings a stem to the averages of a training set."""

import zlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from sonido_bench.datamodules.effect_normalisation.averages import EffectAverages, StemAverages, check_stem
from sonido_bench.datamodules.effect_normalisation.compression import match_attacks
from sonido_bench.datamodules.effect_normalisation.equaliser import match_spectrum
from sonido_bench.datamodules.effect_normalisation.level import (
    SILENCE_DB,
    WORKING_LUFS,
    limit_peak,
    peak_db,
    to_loudness,
)
from sonido_bench.datamodules.effect_normalisation.panning import match_panning
from sonido_bench.datamodules.effect_normalisation.reverb import draw_pre_reverb, draw_reverb
from sonido_bench.datamodules.effect_normalisation.stems import stem_settings
from sonido_bench.datamodules.rendering.effects import loudness
from sonido_bench.errors import ConfigError, DataError

__all__ = ["EFFECTS", "Effect", "EffectNormaliser"]

Effect = Literal["pre_reverb", "reverb", "equaliser", "compression", "panning", "loudness"]

EFFECTS: tuple[Effect, ...] = get_args(Effect)
"""All effects in the order in which they are applied."""


class EffectNormaliser:
    """Brings stems to average effects (FxNorm-automix, section 3 of the paper).

    Equaliser, panning and loudness by default. Compression, which searches, is slower; ``reverb`` is an augmentation
    of vocals and other stems rather than a normalisation; ``pre_reverb`` is for dry recordings only. The order is
    always that of ``EFFECTS``. Equal inputs give equal outputs.

    Args:
        averages: Of the training set.
        effects: Which to apply.
        seed: Decides, with the names of track and stem, the reverb.

    Raises:
        ConfigError: If an effect is not one of ``EFFECTS``, or given twice.
    """

    def __init__(
        self,
        averages: EffectAverages,
        effects: Sequence[Effect] = ("equaliser", "panning", "loudness"),
        seed: int = 0,
    ) -> None:
        if not set(effects) <= set(EFFECTS) or len(set(effects)) < len(effects):
            raise ConfigError(f"expected different effects of {', '.join(EFFECTS)}, got {', '.join(effects)}")
        self.averages = averages
        self.effects = tuple(effect for effect in EFFECTS if effect in effects)
        self.seed = seed

    def apply(self, stem: str, audio: np.ndarray, track: str = "") -> np.ndarray:
        """Normalise one stem.

        Args:
            stem: Its name, as in the averages.
            audio: ``(2, samples)`` float32 in [-1, 1] at the averages' sample rate.
            track: Name of the track, which decides the reverb.

        Returns:
            The same shape, float32. A silent stem (peak below -50 dB of full scale) stays as it is. Without the
            effect ``loudness`` a stem stays as loud as it was; with it no sample exceeds full scale.

        Raises:
            DataError: If the averages lack a stem that sounds.
            ValueError: If the audio has another shape or is not finite.
        """
        check_stem(stem, audio)
        audio = audio.astype(np.float32, copy=False)
        if peak_db(audio) < SILENCE_DB:
            return audio
        if stem not in self.averages.stems:
            raise DataError(
                f"expected averages of the stem {stem}, found those of {', '.join(self.averages.stems)}; "
                "measure them on tracks in which it sounds"
            )
        averages = self.averages.stems[stem]
        rate = self.averages.sample_rate
        rng = np.random.default_rng((self.seed, zlib.crc32(f"{track}\0{stem}".encode())))
        working = to_loudness(audio, rate, WORKING_LUFS)
        for effect in self.effects:
            working = self._apply(effect, stem, working, averages, rng)
        if "loudness" in self.effects:
            return limit_peak(working)
        return to_loudness(working, rate, loudness(audio, rate))

    def _apply(
        self, effect: Effect, stem: str, audio: np.ndarray, averages: StemAverages, rng: np.random.Generator
    ) -> np.ndarray:
        settings, rate = stem_settings(stem), self.averages.sample_rate
        match effect:
            case "pre_reverb":
                return draw_pre_reverb(rng).apply(audio, rate) if settings.reverberant else audio
            case "reverb":
                return draw_reverb(rng).apply(audio, rate) if settings.reverberant else audio
            case "equaliser":
                # Reverb may have come before: the reference was measured at this loudness.
                working = to_loudness(audio, rate, WORKING_LUFS)
                return match_spectrum(working, averages.spectrum, settings.smoothing_bins)
            case "compression":
                return match_attacks(audio, rate, (averages.attack_db, averages.attack_deviation_db), settings)
            case "panning":
                working = to_loudness(audio, rate, WORKING_LUFS)
                return match_panning(working, rate, averages.similarity, settings.panning_limit_hz)
            case "loudness":
                return to_loudness(audio, rate, averages.loudness)
