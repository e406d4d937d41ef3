"""Levels of stems: loudness, peak, silence."""

import numpy as np

from sonido_bench.datamodules.rendering.effects import loudness

__all__ = ["SILENCE_DB", "WORKING_LUFS", "limit_peak", "peak_db", "to_loudness"]

SILENCE_DB = -50.0
"""A stem whose peak is lower (dB of full scale) counts as silent, as published."""

WORKING_LUFS = -30.0
"""Loudness at which spectra and panning are measured and changed, so that a stem's own level does not matter."""


def to_loudness(audio: np.ndarray, sample_rate: int, lufs: float) -> np.ndarray:
    """Amplify ``(2, samples)`` to an integrated loudness (ITU-R BS.1770-4); below 0.4 s to an RMS level in dB."""
    gain_db = lufs - loudness(audio, sample_rate)
    return audio * np.float32(10 ** (gain_db / 20))


def limit_peak(audio: np.ndarray) -> np.ndarray:
    """Scale audio that exceeds full scale down to it."""
    return audio / np.float32(max(1.0, float(np.abs(audio).max(initial=0.0))))


def peak_db(audio: np.ndarray) -> float:
    """Return the largest magnitude in dB of full scale; minus infinity without any."""
    peak = float(np.abs(audio).max(initial=0.0))
    return float(20 * np.log10(peak)) if peak > 0 else -np.inf
