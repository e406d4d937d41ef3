"""Dry stems to wet stems and their mix, through effects whose every parameter is kept.

wet stem = scale * (chain(dry) + send * reverb(chain(dry)));  mix = sum of the wet stems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sonido_bench.datamodules.rendering.effects import Compressor, Equaliser, Gain, Pan, Reverb, loudness

__all__ = ["Channel", "Mix", "draw_mix"]

PEAK = 0.97  # of full scale: what the loudest sample of a mix may reach

# Loudness of a part in LUFS; drawn 4 dB softer or louder, so that no part is drowned.
_LOUDNESS = {"melody": -22.0, "chords": -25.0, "bass": -24.0, "drums": -22.0, "pad": -27.0, "counter": -25.0}
_LOUDNESS_SPREAD = 4.0
_MAX_GAIN_DB = 60.0  # a part that hardly plays is not blown up


@dataclass(frozen=True)
class Channel:
    """What happens to one stem: gain, equaliser, compressor, pan, and the share sent to the reverb."""

    gain: Gain
    equaliser: Equaliser
    compressor: Compressor
    pan: Pan
    send: float

    def apply(self, dry: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the processed stem, without reverb."""
        audio = self.equaliser.apply(self.gain.apply(dry), sample_rate)
        return self.pan.apply(self.compressor.apply(audio, sample_rate))


@dataclass(frozen=True)
class Mix:
    """A mixing desk: one channel per stem, one reverb for all, and a final scale that keeps the mix from clipping."""

    channels: tuple[Channel, ...]
    reverb: Reverb
    scale: float

    def wet_stems(self, dry: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        """Return each stem as it sounds in the mix, float32 ``(2, samples)``."""
        wet = []
        for channel, stem in zip(self.channels, dry, strict=True):
            processed = channel.apply(stem, sample_rate)
            reverberated = self.reverb.apply(np.float32(channel.send) * processed, sample_rate)
            wet.append(np.float32(self.scale) * (processed + reverberated))
        return wet

    def mixture(self, dry: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
        """Return the sum of the wet stems, up to rounding: one convolution serves all, as reverb is linear."""
        direct = np.zeros_like(dry[0])
        bus = np.zeros_like(dry[0])
        for channel, stem in zip(self.channels, dry, strict=True):
            processed = channel.apply(stem, sample_rate)
            direct += processed
            bus += np.float32(channel.send) * processed
        mixture: np.ndarray = np.float32(self.scale) * (direct + self.reverb.apply(bus, sample_rate))
        return mixture

    def as_dict(self) -> dict[str, Any]:
        """Return all parameters as a JSON-able dictionary."""
        return asdict(self) | {"channels": [asdict(channel) for channel in self.channels]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Mix":
        """Rebuild the desk from ``as_dict``'s values."""
        channels = tuple(
            Channel(
                Gain(**channel["gain"]),
                Equaliser(**channel["equaliser"]),
                Compressor(**channel["compressor"]),
                Pan(**channel["pan"]),
                channel["send"],
            )
            for channel in values["channels"]
        )
        return cls(channels, Reverb(**values["reverb"]), values["scale"])


def draw_mix(
    dry: Sequence[np.ndarray], roles: Sequence[str], sample_rate: int, rng: np.random.Generator
) -> tuple[Mix, np.ndarray]:
    """Draw a desk for dry stems and return it with the mixture that it makes.

    Args:
        dry: The stems, each ``(2, samples)`` float32.
        roles: What each of them plays.
        sample_rate: In Hz.
        rng: Decides the parameters.
    """
    channels = tuple(_channel(stem, role, sample_rate, rng) for stem, role in zip(dry, roles, strict=True))
    reverb = Reverb(_draw(rng, 0.3, 1.2), _draw(rng, 0.0, 0.03), int(rng.integers(2**31)))
    mix = Mix(channels, reverb, scale=1.0)
    mixture = mix.mixture(dry, sample_rate)
    peak = float(np.abs(mixture).max(initial=0.0))
    if peak <= PEAK:
        return mix, mixture
    mix = replace(mix, scale=PEAK / peak)
    return mix, np.float32(mix.scale) * mixture


def _channel(stem: np.ndarray, role: str, sample_rate: int, rng: np.random.Generator) -> Channel:
    target = _LOUDNESS[role] + _draw(rng, -_LOUDNESS_SPREAD, _LOUDNESS_SPREAD)
    gain = min(target - loudness(stem, sample_rate), _MAX_GAIN_DB)
    equaliser = Equaliser(
        low_hz=_draw(rng, 80, 250),
        low_db=_draw(rng, -6, 4),
        peak_hz=float(np.exp(rng.uniform(np.log(400), np.log(4000)))),
        peak_db=_draw(rng, -5, 5),
        peak_q=_draw(rng, 0.5, 2),
        high_hz=_draw(rng, 3000, 9000),
        high_db=_draw(rng, -6, 4),
    )
    compressor = Compressor(
        threshold_db=_draw(rng, -24, -8),
        ratio=_draw(rng, 1.5, 4),
        attack_seconds=_draw(rng, 0.003, 0.03),
        release_seconds=_draw(rng, 0.05, 0.3),
    )
    width = 0.15 if role in ("bass", "drums") else 0.7  # low and loud parts stay near the middle
    return Channel(Gain(gain), equaliser, compressor, Pan(_draw(rng, -width, width)), _draw(rng, 0.0, 0.25))


def _draw(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))
