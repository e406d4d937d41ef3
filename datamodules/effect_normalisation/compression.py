"""A stem's attacks brought down to those of a training set's average stem."""

from bisect import bisect_left

import numpy as np
from scipy import fft, signal

from sonido_bench.datamodules.effect_normalisation.level import peak_db
from sonido_bench.datamodules.effect_normalisation.stems import StemSettings
from sonido_bench.datamodules.rendering.effects import Compressor

__all__ = ["match_attacks", "measure_attacks"]

_PEAK_DB = -10.0  # of full scale, at which attacks are measured and compressed
_N_FFT, _HOP = 1024, 512
_RISE_DB = 6.0  # of the high-frequency content from one frame to the next, that makes an onset
_RANGE_DB = 60.0  # what lies lower than this below a stem's loudest frame makes none
_ONSET_SECONDS = 0.05  # least distance of two onsets
_LOUDEST = 75  # percentile: only attacks above it count
_THRESHOLDS_DB = np.arange(-10.0, -40.5, -0.5)
_MOST_RATIO = 20


def measure_attacks(audio: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """Return mean and standard deviation of the loudest quarter of a stem's attacks.

    An attack is the peak between one onset and the next; a stem without onsets has one, its peak.

    Args:
        audio: ``(2, samples)``, not silent.
        sample_rate: In Hz.

    Returns:
        In dB, where the whole stem's peak is -10.
    """
    audio = _at_peak(audio)
    return _attacks(audio, _onsets(audio, sample_rate))


def match_attacks(
    audio: np.ndarray, sample_rate: int, reference: tuple[float, float], settings: StemSettings
) -> np.ndarray:
    """Compress a stem until its attacks are at most one standard deviation above the reference's mean.

    Of all ratios, from the stem's own up to 20, the least is taken that reaches this with some threshold from -10 to
    -40 dB, and with it the highest such threshold; where none does, the strongest compressor. Nothing is expanded.
    Both channels get the same gain.

    Args:
        audio: ``(2, samples)`` float32, not silent.
        sample_rate: In Hz.
        reference: As :func:`measure_attacks` returns.
        settings: Of the stem.

    Returns:
        The same shape; its peak is that of the input, or less.
    """
    audio, gain_db = _at_peak(audio), peak_db(audio) - _PEAK_DB
    # Onsets are those of the dry stem: a threshold's effect is then monotonic, and can be found by bisection.
    onsets = _onsets(audio, sample_rate)
    most = sum(reference)

    def compress(ratio: int, threshold: int) -> np.ndarray:
        level = float(_THRESHOLDS_DB[threshold])
        compressor = Compressor(level, ratio, settings.attack_seconds, settings.release_seconds)
        return compressor.apply(audio, sample_rate)

    def enough(ratio: int, threshold: int) -> bool:
        return _attacks(compress(ratio, threshold), onsets)[0] <= most

    if _attacks(audio, onsets)[0] > most:
        strongest = len(_THRESHOLDS_DB) - 1
        ratios = range(settings.ratio, _MOST_RATIO + 1)
        ratio = next((ratio for ratio in ratios if enough(ratio, strongest)), _MOST_RATIO)
        threshold = bisect_left(range(strongest), True, key=lambda index: enough(ratio, index))
        audio = compress(ratio, threshold)
    return audio * np.float32(10 ** (gain_db / 20))


def _at_peak(audio: np.ndarray) -> np.ndarray:
    return audio * np.float32(10 ** ((_PEAK_DB - peak_db(audio)) / 20))


def _onsets(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the samples at which high-frequency content rises steeply; 0 where it nowhere does."""
    mono = np.pad(audio.mean(axis=0), (_N_FFT + _HOP, max(0, _N_FFT - audio.shape[1])))
    frames = np.lib.stride_tricks.sliding_window_view(mono, _N_FFT)[::_HOP]
    window = signal.windows.hann(_N_FFT, sym=False).astype(np.float32)
    power = np.square(np.abs(fft.rfft(frames * window)))
    content = power @ np.arange(power.shape[1])
    decibels = 10 * np.log10(np.maximum(content, content.max() * 10 ** (-_RANGE_DB / 10)))
    rises = np.diff(decibels, append=decibels[-1])
    distance = max(1, round(_ONSET_SECONDS * sample_rate / _HOP))
    found, _ = signal.find_peaks(rises, height=_RISE_DB, distance=distance)
    # The frame before the rise ends where the rise begins, and frame 1 ends at the first sample.
    return np.clip((found - 1) * _HOP, 0, audio.shape[1] - 1) if len(found) else np.zeros(1, dtype=np.int64)


def _attacks(audio: np.ndarray, onsets: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation in dB of the peaks that follow the onsets, the loudest quarter of them."""
    peaks = np.maximum.reduceat(np.abs(audio).max(axis=0), onsets)
    decibels = 20 * np.log10(np.maximum(peaks, 1e-6))
    loudest = decibels[decibels >= np.percentile(decibels, _LOUDEST)]
    return float(loudest.mean()), float(loudest.std())
