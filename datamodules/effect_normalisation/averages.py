"""The average effects of a training set: measured once, kept in a file."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonido_bench.datamodules.effect_normalisation.compression import measure_attacks
from sonido_bench.datamodules.effect_normalisation.equaliser import GRID, mean_spectrum
from sonido_bench.datamodules.effect_normalisation.level import SILENCE_DB, WORKING_LUFS, peak_db, to_loudness
from sonido_bench.datamodules.effect_normalisation.panning import channel_similarity
from sonido_bench.datamodules.effect_normalisation.stems import stem_settings
from sonido_bench.datamodules.rendering.effects import loudness
from sonido_bench.errors import DataError
from sonido_bench.files import write_json

__all__ = ["EffectAverages", "StemAverages"]

_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class StemAverages:
    """Means over the tracks in which a stem sounds.

    Attributes:
        tracks: How many.
        loudness: In LUFS.
        spectrum: ``(1025,)``, as ``mean_spectrum`` gives it of stems at -30 LUFS.
        similarity: ``(1025,)`` in [0, 1], as ``channel_similarity`` gives it of the same.
        attack_db: Mean level of the loudest attacks, as ``measure_attacks`` gives it.
        attack_deviation_db: Their standard deviation.
    """

    tracks: int
    loudness: float
    spectrum: np.ndarray
    similarity: np.ndarray
    attack_db: float
    attack_deviation_db: float


@dataclass(frozen=True, eq=False)
class EffectAverages:
    """The averages of every stem of a training set.

    Attributes:
        sample_rate: In Hz; spectra of other rates cannot be compared with them.
        stems: By name.
    """

    sample_rate: int
    stems: Mapping[str, StemAverages]

    @classmethod
    def measure(cls, tracks: Iterable[Mapping[str, np.ndarray]], sample_rate: int) -> "EffectAverages":
        """Measure a training set; only one track is held at a time.

        Args:
            tracks: Each the stems of a track by name, ``(2, samples)`` float32 in [-1, 1]. Silent ones do not count.
            sample_rate: Of all of them, in Hz.

        Raises:
            DataError: If no stem of any track sounds.
            ValueError: If a stem has another shape or is not finite.
        """
        sums: dict[str, np.ndarray] = {}
        counts: dict[str, int] = {}
        for track in tracks:
            for name, audio in track.items():
                check_stem(name, audio)
                if peak_db(audio) < SILENCE_DB:
                    continue
                figures = _figures(name, audio, sample_rate)
                sums[name] = sums.get(name, 0.0) + figures
                counts[name] = counts.get(name, 0) + 1
        if not sums:
            raise DataError("expected stems to average effects over, found none that sounds; check the training set")
        return cls(sample_rate, {name: _averages(total / counts[name], counts[name]) for name, total in sums.items()})

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as a JSON-able dictionary."""
        stems = {
            name: vars(stem) | {"spectrum": stem.spectrum.tolist(), "similarity": stem.similarity.tolist()}
            for name, stem in self.stems.items()
        }
        return {"schema": _SCHEMA, "sample_rate": self.sample_rate, "stems": stems}

    def save(self, path: Path) -> None:
        """Write the averages as JSON, whole or not at all."""
        write_json(path, self.as_dict())

    @classmethod
    def load(cls, path: Path) -> "EffectAverages":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: If the file is missing, damaged or of another schema.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["schema"] != _SCHEMA:
                raise DataError(
                    f"{path}: expected schema {_SCHEMA}, found {values['schema']}; measure the averages again"
                )
            stems = {name: _read_stem(stem) for name, stem in values["stems"].items()}
            return cls(int(values["sample_rate"]), stems)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: expected averages of effects, found {type(error).__name__}: {error}; measure them again"
            ) from error


def check_stem(name: str, audio: np.ndarray) -> None:
    """Refuse what is no finite stereo audio.

    Raises:
        ValueError: If it is not.
    """
    if audio.ndim != 2 or audio.shape[0] != 2 or not np.isfinite(audio).all():
        raise ValueError(f"expected {name} as finite audio of shape (2, samples), got {audio.shape}")


def _figures(name: str, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return all figures of one stem in one vector, for their mean."""
    level = loudness(audio, sample_rate)
    working = to_loudness(audio, sample_rate, WORKING_LUFS)
    spectrum = mean_spectrum(working, stem_settings(name).smoothing_bins)
    return np.concatenate([[level], measure_attacks(audio, sample_rate), spectrum, channel_similarity(working)])


def _averages(means: np.ndarray, tracks: int) -> StemAverages:
    level, attack, deviation = means[:3].tolist()
    return StemAverages(tracks, level, means[3 : 3 + GRID], means[3 + GRID :], attack, deviation)


def _read_stem(values: Mapping[str, Any]) -> StemAverages:
    means = np.array([values[name] for name in ("loudness", "attack_db", "attack_deviation_db")], dtype=np.float64)
    spectrum, similarity = (np.array(values[name], dtype=np.float64) for name in ("spectrum", "similarity"))
    if spectrum.shape != (GRID,) or similarity.shape != (GRID,):
        raise ValueError(f"spectrum and similarity have shapes {spectrum.shape} and {similarity.shape}, not ({GRID},)")
    figures = np.concatenate([means, spectrum, similarity])
    if not np.isfinite(figures).all():
        raise ValueError("figures that are not finite")
    return _averages(figures, int(values["tracks"]))
