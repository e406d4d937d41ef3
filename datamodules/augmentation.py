"""Audio made unlike itself, so that what is learned from one kind of music holds for others.

Pre-training alone changes its audio: a benchmark's clips are what they are.
"""

from dataclasses import dataclass, fields, replace
from fractions import Fraction

import numpy as np
import torch
from scipy import signal
from torch import Tensor

from sonido_bench.audio import resample
from sonido_bench.datamodules.rendering.effects import Equaliser
from sonido_bench.errors import ConfigError

__all__ = ["Augmentation", "AugmentationConfig", "resampling_ratio"]

_MAX_DENOMINATOR = 48  # of a resampling that changes the speed: at most 4 cents off, and its filters stay short
_LOWPASS_ORDER = 6
_HIGHEST_CORNER = 0.45  # of the sample rate


@dataclass(frozen=True)
class AugmentationConfig:
    """What may happen to a segment, and how often; each effect is drawn on its own.

    Attributes:
        gain_db: Range of the amplification.
        gain_probability: Of a gain.
        equaliser_db: Largest boost or cut of a low shelf, a peak and a high shelf.
        equaliser_probability: Of an equaliser.
        snr_db: Range of the level of the segment over that of white noise added to it.
        noise_probability: Of noise.
        cutoff_hz: Range of the corner of a low-pass.
        lowpass_probability: Of a low-pass.
        semitones: Range of a change of speed, in whole semitones: pitch and tempo change together, as on tape.
        speed_probability: Of a change of speed.
    """

    gain_db: tuple[float, float] = (-12.0, 3.0)
    gain_probability: float = 1.0
    equaliser_db: float = 9.0
    equaliser_probability: float = 0.5
    snr_db: tuple[float, float] = (20.0, 60.0)
    noise_probability: float = 0.5
    cutoff_hz: tuple[float, float] = (2000.0, 9000.0)
    lowpass_probability: float = 0.2
    semitones: tuple[int, int] = (-5, 6)
    speed_probability: float = 0.7

    def __post_init__(self) -> None:
        """Refuse ranges that fall and probabilities that are none."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ConfigError(f"augmentation.{field.name} must be a range from low to high, got {list(value)}")
            if field.name.endswith("probability") and not 0 <= value <= 1:
                raise ConfigError(f"augmentation.{field.name} must lie in [0, 1], got {value}")
        if self.cutoff_hz[0] <= 0 or max(map(abs, self.semitones)) > 24:
            raise ConfigError(
                "augmentation: cutoff_hz must be above 0 and semitones within 24, got "
                f"{self.cutoff_hz[0]:g} and {list(self.semitones)}"
            )

    def draw(self, rng: np.random.Generator) -> "Augmentation":
        """Return one augmentation at random."""
        # All is drawn whether it is used or not: a probability that changes leaves the other draws as they were.
        chosen = dict(zip(("gain", "equaliser", "noise", "lowpass", "speed"), rng.random(5), strict=True))
        gain_db, snr_db = rng.uniform(*self.gain_db), rng.uniform(*self.snr_db)
        cutoff_hz = float(np.exp(rng.uniform(*np.log(self.cutoff_hz))))
        semitones = int(rng.integers(self.semitones[0], self.semitones[1] + 1))
        equaliser, noise_seed = _draw_equaliser(self.equaliser_db, rng), int(rng.integers(2**63))
        return Augmentation(
            gain_db=gain_db if chosen["gain"] < self.gain_probability else 0.0,
            equaliser=equaliser if chosen["equaliser"] < self.equaliser_probability else None,
            snr_db=snr_db if chosen["noise"] < self.noise_probability else None,
            cutoff_hz=cutoff_hz if chosen["lowpass"] < self.lowpass_probability else None,
            semitones=semitones if chosen["speed"] < self.speed_probability else 0,
            noise_seed=noise_seed,
        )


@dataclass(frozen=True)
class Augmentation:
    """One choice of effects; without arguments it only resamples.

    Attributes:
        gain_db: Amplification.
        equaliser: Or ``None``.
        snr_db: Level of the segment over that of the noise, or ``None``.
        cutoff_hz: Of the low-pass, or ``None``; no effect near half the sample rate and beyond.
        semitones: Change of speed.
        noise_seed: Of the noise.
    """

    gain_db: float = 0.0
    equaliser: Equaliser | None = None
    snr_db: float | None = None
    cutoff_hz: float | None = None
    semitones: int = 0
    noise_seed: int = 0

    @property
    def speed(self) -> float:
        """How many seconds of the recording become one second of the result; it is kept to 0.25 %."""
        return float(2 ** (self.semitones / 12))

    def apply(self, audio: Tensor, rate: int, sample_rate: int) -> Tensor:
        """Return the changed audio at another rate; the change of speed and that of the rate are one resampling.

        Args:
            audio: Mono, ``(samples,)`` float32.
            rate: Its sample rate in Hz.
            sample_rate: Of the result in Hz.

        Returns:
            ``(ceil(samples * sample_rate / (rate * speed)),)`` float32.
        """
        ratio = resampling_ratio(rate, sample_rate, self.semitones)
        changed = resample(audio, ratio.numerator, ratio.denominator).numpy()
        highest = _HIGHEST_CORNER * sample_rate
        if self.equaliser is not None:  # a corner beyond half the sample rate would make it unstable
            corners = {name: min(getattr(self.equaliser, name), highest) for name in ("low_hz", "peak_hz", "high_hz")}
            changed = replace(self.equaliser, **corners).apply(changed, sample_rate)
        if self.cutoff_hz is not None and self.cutoff_hz < highest:
            sections = signal.butter(_LOWPASS_ORDER, self.cutoff_hz, fs=sample_rate, output="sos")
            changed = signal.sosfilt(sections.astype(np.float32), changed)
        if self.snr_db is not None:  # after the low-pass: noise of the recording machine, not of the room
            noise = np.random.default_rng(self.noise_seed).standard_normal(len(changed), dtype=np.float32)
            level = np.sqrt(np.mean(np.square(changed))) if len(changed) else 0.0
            changed = changed + noise * np.float32(level * 10 ** (-self.snr_db / 20))
        return torch.from_numpy(np.ascontiguousarray(changed * np.float32(10 ** (self.gain_db / 20)), np.float32))


def resampling_ratio(rate: int, sample_rate: int, semitones: int) -> Fraction:
    """Return how many samples of a recording become one of the result: exact, or with a change of speed a simple ratio.

    The exact product of two ratios, such as 48000 / 22050 and 18 / 17, would need filters of a hundred megabytes.

    Args:
        rate: Of the recording, in Hz.
        sample_rate: Of the result, in Hz.
        semitones: Change of speed; with one the ratio is at most 4 cents off, for rates from 16 to 96 kHz.
    """
    exact = Fraction(rate, sample_rate)
    return Fraction(exact * 2 ** (semitones / 12)).limit_denominator(_MAX_DENOMINATOR) if semitones else exact


def _draw_equaliser(most_db: float, rng: np.random.Generator) -> Equaliser:
    low_hz, peak_hz, high_hz = np.exp(rng.uniform(np.log([60, 250, 2500]), np.log([300, 3500, 7000])))
    low_db, peak_db, high_db = rng.uniform(-most_db, most_db, 3)
    return Equaliser(low_hz, low_db, peak_hz, peak_db, float(rng.uniform(0.5, 1.5)), high_hz, high_db)
