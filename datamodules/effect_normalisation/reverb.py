"""Reverb for stems that lack it: added to a vocal or another pitched stem before everything else."""

from dataclasses import dataclass

import numpy as np

from sonido_bench.datamodules.rendering.effects import Equaliser, Reverb

__all__ = ["ReverbSend", "draw_pre_reverb", "draw_reverb"]

_SHELF_DB = -30.0
_HIGHEST_CORNER = 0.45  # of the sample rate


@dataclass(frozen=True)
class ReverbSend:
    """A share of the dry stem and a share of its reverb.

    Attributes:
        dry: Share of the stem.
        wet: Share of the reverb.
        reverb: The reverb.
        corners_hz: Below the first and above the second the reverb hears 30 dB less; ``None``: it hears all.
    """

    dry: float
    wet: float
    reverb: Reverb
    corners_hz: tuple[float, float] | None

    def apply(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return ``(2, samples)`` float32 with reverb, cut to the same length."""
        send = audio
        if self.corners_hz is not None:
            low, high = (min(corner, _HIGHEST_CORNER * sample_rate) for corner in self.corners_hz)
            send = Equaliser(low, _SHELF_DB, 1000.0, 0.0, 1.0, high, _SHELF_DB).apply(audio, sample_rate)
        return np.float32(self.dry) * audio + np.float32(self.wet) * self.reverb.apply(send, sample_rate)


def draw_reverb(rng: np.random.Generator) -> ReverbSend:
    """Draw the published reverb: 2 to 4 s, fed without lows and highs, added to the whole dry stem."""
    corners = float(rng.uniform(500, 700)), float(rng.uniform(7000, 10_000))
    return ReverbSend(1.0, 1.0, _draw(rng, 2.0, 4.0), corners)


def draw_pre_reverb(rng: np.random.Generator) -> ReverbSend:
    """Draw what the published method gives dry recordings first: half of the stem, half of a reverb below 1.5 s."""
    return ReverbSend(0.5, 0.5, _draw(rng, 0.3, 1.5), None)


def _draw(rng: np.random.Generator, shortest: float, longest: float) -> Reverb:
    return Reverb(float(rng.uniform(shortest, longest)), 0.0, int(rng.integers(2**31)))
