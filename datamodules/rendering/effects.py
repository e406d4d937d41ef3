"""Effects with known parameters on stereo audio ``(2, samples)`` float32.

Equaliser sections follow R. Bristow-Johnson's *Audio EQ Cookbook* (shelves of slope 1).
"""

import math
from dataclasses import dataclass

import numpy as np
import pyloudnorm
from scipy import fft, signal

__all__ = ["Compressor", "Equaliser", "Gain", "Pan", "Reverb", "loudness"]

_LOUDNESS_BLOCK = 0.4  # seconds, ITU-R BS.1770-4
_CONTROL_BLOCK = 64  # samples between two values of the compressor's gain


@dataclass(frozen=True)
class Gain:
    """Amplification by ``gain_db`` decibels."""

    gain_db: float

    def apply(self, audio: np.ndarray) -> np.ndarray:
        """Return the amplified audio."""
        return audio * np.float32(10 ** (self.gain_db / 20))


@dataclass(frozen=True)
class Equaliser:
    """A low shelf, a peak and a high shelf in series; gains in dB, corner and centre frequencies in Hz."""

    low_hz: float
    low_db: float
    peak_hz: float
    peak_db: float
    peak_q: float
    high_hz: float
    high_db: float

    def sections(self, sample_rate: int) -> np.ndarray:
        """Return the three biquads, shape ``(3, 6)`` as in ``scipy.signal.sosfilt``."""
        return np.stack(
            [
                _shelf(self.low_hz, self.low_db, sample_rate, high=False),
                _peak(self.peak_hz, self.peak_db, self.peak_q, sample_rate),
                _shelf(self.high_hz, self.high_db, sample_rate, high=True),
            ]
        )

    def apply(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the filtered audio."""
        filtered: np.ndarray = signal.sosfilt(self.sections(sample_rate).astype(np.float32), audio)
        return filtered


def _peak(frequency: float, gain_db: float, q: float, sample_rate: int) -> np.ndarray:
    amplitude = 10 ** (gain_db / 40)
    omega = 2 * math.pi * frequency / sample_rate
    alpha, cosine = math.sin(omega) / (2 * q), math.cos(omega)
    section: np.ndarray = np.array(
        [
            1 + alpha * amplitude,
            -2 * cosine,
            1 - alpha * amplitude,
            1 + alpha / amplitude,
            -2 * cosine,
            1 - alpha / amplitude,
        ]
    )
    section /= section[3]
    return section


def _shelf(frequency: float, gain_db: float, sample_rate: int, *, high: bool) -> np.ndarray:
    amplitude = 10 ** (gain_db / 40)
    omega = 2 * math.pi * frequency / sample_rate
    sign = 1 if high else -1  # the high shelf is the low shelf with the cosine turned round
    cosine = math.cos(omega)
    slope = 2 * math.sqrt(amplitude) * math.sin(omega) / math.sqrt(2)
    plus, minus = amplitude + 1, amplitude - 1
    section: np.ndarray = np.array(
        [
            amplitude * (plus + sign * minus * cosine + slope),
            -2 * sign * amplitude * (minus + sign * plus * cosine),
            amplitude * (plus + sign * minus * cosine - slope),
            plus - sign * minus * cosine + slope,
            2 * sign * (minus - sign * plus * cosine),
            plus - sign * minus * cosine - slope,
        ]
    )
    section /= section[3]
    return section


@dataclass(frozen=True)
class Compressor:
    """A feed-forward compressor: both channels get the gain that the louder one asks for.

    Above ``threshold_db`` (dB of full scale) the level rises by 1 dB for every ``ratio`` dB; times in seconds.
    """

    threshold_db: float
    ratio: float
    attack_seconds: float
    release_seconds: float

    def apply(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the compressed audio."""
        channels, samples = audio.shape
        blocks = -(-samples // _CONTROL_BLOCK)
        padded = np.zeros((channels, blocks * _CONTROL_BLOCK), np.float32)
        np.abs(audio, out=padded[:, :samples])
        peaks = padded.reshape(channels, blocks, _CONTROL_BLOCK).max(axis=(0, 2))
        over = np.maximum(20 * np.log10(np.maximum(peaks, 1e-6)) - self.threshold_db, 0)
        reduction = self._smooth(over * (1 - 1 / self.ratio), _CONTROL_BLOCK / sample_rate)
        gain = 10 ** (-reduction / 20)
        centres = (np.arange(blocks) + 0.5) * _CONTROL_BLOCK
        return audio * np.interp(np.arange(samples), centres, gain).astype(np.float32)

    def _smooth(self, wanted: np.ndarray, block_seconds: float) -> np.ndarray:
        """Follow the wanted gain reduction (dB), fast upwards and slowly downwards."""
        attack = math.exp(-block_seconds / self.attack_seconds)
        release = math.exp(-block_seconds / self.release_seconds)
        smooth, level = [], 0.0
        for value in wanted.tolist():
            keep = attack if value > level else release
            level = keep * level + (1 - keep) * value
            smooth.append(level)
        return np.array(smooth)


@dataclass(frozen=True)
class Pan:
    """Constant-power balance: ``position`` -1 is left, 0 the middle (unchanged), 1 right."""

    position: float

    def apply(self, audio: np.ndarray) -> np.ndarray:
        """Return the panned audio."""
        angle = (self.position + 1) * math.pi / 4
        gains = math.sqrt(2) * np.array([[math.cos(angle)], [math.sin(angle)]])
        return audio * gains.astype(np.float32)


@dataclass(frozen=True)
class Reverb:
    """Convolution with noise that decays by 60 dB in ``decay_seconds``, after ``delay_seconds`` of silence."""

    decay_seconds: float
    delay_seconds: float
    seed: int

    def impulse_response(self, sample_rate: int) -> np.ndarray:
        """Return the response, float32 ``(2, length)`` with unit energy in each channel."""
        length = round(self.decay_seconds * sample_rate)
        noise = np.random.default_rng(self.seed).standard_normal((2, length), np.float32)
        noise *= np.power(10.0, -3 * np.arange(length) / length).astype(np.float32)
        noise /= np.sqrt((noise**2).sum(axis=1, keepdims=True))
        return np.pad(noise, ((0, 0), (round(self.delay_seconds * sample_rate), 0)))

    def apply(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the reverberation alone, cut to the length of the audio."""
        response = self.impulse_response(sample_rate)
        samples = audio.shape[1]
        size = fft.next_fast_len(samples + response.shape[1] - 1, real=True)
        wet: np.ndarray = fft.irfft(fft.rfft(audio, size) * fft.rfft(response, size), size)[:, :samples]
        return wet.astype(np.float32, copy=False)


def loudness(audio: np.ndarray, sample_rate: int) -> float:
    """Return the loudness of stereo audio in LUFS (ITU-R BS.1770-4); of less than one block its RMS in dB.

    Returns:
        -70 for silence, the standard's absolute threshold.
    """
    if audio.shape[1] < _LOUDNESS_BLOCK * sample_rate:
        power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
        return max(10 * math.log10(power), -70.0) if power > 0 else -70.0
    return max(float(pyloudnorm.Meter(sample_rate).integrated_loudness(audio.T)), -70.0)
