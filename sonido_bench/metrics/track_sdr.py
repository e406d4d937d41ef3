"""cSDR and uSDR of tracks that arrive in parts: what is kept of a part is small, and parts can be joined.

Equal to ``metrics.separation`` on the whole track, which has definitions and sources, where all parts but the last are
whole seconds long. Beyond it, every track in which a stem sounds has both scores, whatever was estimated, so that runs
can be compared track by track: see ``Energies.csdr``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Energies"]

Audio = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_DELTA = 1e-7
"""Added to both energies, as in ``metrics.separation.usdr``."""


@dataclass(frozen=True)
class Energies:
    """Energies of stems and of their estimates' errors in windows of one second; the last one may be shorter.

    Attributes:
        full: Whether a window has its whole second, ``(1, windows)``.
        signal: Energy of each reference, over samples and channels, ``(sources, windows)``.
        noise: Energy of each estimate's error, ``(sources, windows)``.
        rests: Whether a reference is silent as museval has it: its channels sum to zero, ``(sources, windows)``.
        empty: Whether an estimate is, ``(sources, windows)``.
    """

    full: Bools
    signal: Floats
    noise: Floats
    rests: Bools
    empty: Bools

    @classmethod
    def measure(cls, references: Audio, estimates: Audio, sample_rate: int) -> Self:
        """Measure a part of a track.

        Args:
            references: ``(sources, channels, samples)``.
            estimates: Of the same shape.
            sample_rate: In Hz.

        Raises:
            ValueError: If the shapes differ or are others.
        """
        if references.ndim != 3 or references.shape != estimates.shape or not references.size:
            raise ValueError(
                "expected references and estimates of one shape (sources, channels, samples), got "
                f"{references.shape} and {estimates.shape}"
            )
        starts = range(0, references.shape[-1], sample_rate)
        windows = [(references[..., at : at + sample_rate], estimates[..., at : at + sample_rate]) for at in starts]
        return cls(
            full=np.array([[wanted.shape[-1] == sample_rate for wanted, _ in windows]]),
            signal=np.stack([_energy(wanted) for wanted, _ in windows], axis=1),
            noise=np.stack([_energy(wanted.astype(np.float64) - found) for wanted, found in windows], axis=1),
            rests=np.stack([_silent(wanted) for wanted, _ in windows], axis=1),
            empty=np.stack([_silent(found) for _, found in windows], axis=1),
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Return the energies of a track from those of its parts, in order."""
        return cls(
            **{each.name: np.concatenate([getattr(part, each.name) for part in parts], 1) for each in fields(cls)}
        )

    def usdr(self) -> Floats:
        """Return uSDR in decibels, ``(sources,)``; NaN for a source whose reference is all zeros."""
        signal, noise = self.signal.sum(axis=1), self.noise.sum(axis=1)
        return np.where(signal > 0, 10 * np.log10((signal + _DELTA) / (noise + _DELTA)), np.nan)

    def csdr(self) -> Floats:
        """Return cSDR in decibels, ``(sources,)``; NaN for a source that rests from beginning to end, and only there.

        Where ``metrics.separation.csdr`` has no score, because in every window some stem or estimate rests, or because
        the estimate is perfect, it is the median over the windows in which the source itself sounds, with uSDR's
        offset against division by zero.
        """
        present: Bools = np.any(~self.rests, axis=1)
        spoilt = self.rests[present].any(axis=0) | self.empty[present & ~self.empty.all(axis=1)].any(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = 10 * np.log10(self.signal / self.noise)
        scores = np.full(len(ratios), np.nan)
        for source in np.flatnonzero(present):
            score = _median(ratios[source, self._scored & ~spoilt])
            scores[source] = score if np.isfinite(score) else self._alone(source)
        return scores

    @property
    def _scored(self) -> Bools:
        """Which windows count, ``(windows,)``: full ones, or in a track that has none, all."""
        full: Bools = self.full[0]
        return full if full.any() else np.ones_like(full)

    def _alone(self, source: np.intp) -> float:
        """Return the median over the windows in which a source sounds."""
        sounds = self.signal[source] > 0
        chosen = sounds & self._scored if (sounds & self._scored).any() else sounds
        ratios = (self.signal[source, chosen] + _DELTA) / (self.noise[source, chosen] + _DELTA)
        return float(np.median(10 * np.log10(ratios)))


def _energy(audio: Audio) -> Floats:
    """Return the energy of each source, over channels and samples."""
    energy: Floats = np.square(audio, dtype=np.float64).sum(axis=(1, 2))
    return energy


def _silent(audio: Audio) -> Bools:
    """Return of each source whether its channels sum to zero in every sample."""
    silent: Bools = np.all(audio.sum(axis=1) == 0, axis=1)
    return silent


def _median(values: Floats) -> float:
    """Return the median of the finite values; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")
