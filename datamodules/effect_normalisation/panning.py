"""A stem's panorama brought to that of a training set's average stem."""

import numpy as np
from scipy import ndimage

from sonido_bench.datamodules.effect_normalisation.short_time import short_time_transform

__all__ = ["channel_similarity", "match_panning"]

_N_FFT, _HOP = 2048, 1024
_LOUD = 10 ** (-10 / 20)  # least magnitude that a frame's loudest bin has; quieter frames are neither heard nor panned
_SMOOTHING_BINS = 15
_SIDE_HZ = (50.0, 2500.0)  # what decides on which side a stem is
_CLOSER = 0.9  # of the reference's similarity is aimed at, as published
_FAINT = 0.1  # share of a bin's magnitude below which a channel's own phase is noise


def channel_similarity(audio: np.ndarray) -> np.ndarray:
    """Return how alike the channels are: 2|L||R| / (|L|^2 + |R|^2), averaged over the loud frames.

    Args:
        audio: ``(2, samples)``.

    Returns:
        ``(1025,)`` in [0, 1], smoothed over bins: 1 where both channels are equally loud, 0 where one is silent; 1
        for a stem without loud frames.
    """
    spectra = _spectra(audio)
    loud = _loud(spectra)
    if not loud.any():
        return np.ones(spectra.shape[1])
    left, right = np.abs(spectra[:, :, loud]).astype(np.float64)
    power = left**2 + right**2
    similarity = np.divide(2 * left * right, power, out=np.ones_like(power), where=power > 0).mean(axis=-1)
    smooth: np.ndarray = ndimage.uniform_filter1d(similarity, _SMOOTHING_BINS, mode="mirror")
    return smooth


def match_panning(audio: np.ndarray, sample_rate: int, reference: np.ndarray, limit_hz: float) -> np.ndarray:
    """Pan every bin of every loud frame to where its channels are 0.9 times as alike as the reference's.

    Pan law is the linear one: |L| + |R| stays. All bins go to the side on which the stem is as a whole (the right
    where it is on none), so that nothing but the reference is left of how it was panned; phases stay, but a channel
    that had next to nothing takes the other's.

    Args:
        audio: ``(2, samples)`` float32, as loud as what the reference was measured on.
        sample_rate: In Hz.
        reference: As :func:`channel_similarity` returns.
        limit_hz: Higher bins stay.

    Returns:
        The same shape.
    """
    spectra = _spectra(audio)
    magnitudes = np.abs(spectra)
    frequencies = np.fft.rfftfreq(_N_FFT, 1 / sample_rate)
    right = _shares_of_right(reference, _side(magnitudes, frequencies))
    shares = np.stack([1 - right, right]).astype(np.float32)[..., None]
    total = magnitudes.sum(axis=0)
    phases = spectra / np.maximum(magnitudes, np.finfo(np.float32).tiny)
    phases = np.where(magnitudes < _FAINT * total, phases[::-1], phases)
    chosen = (frequencies < limit_hz)[:, None] & _loud(spectra)
    panned = np.where(chosen, shares * total * phases, spectra)
    restored = short_time_transform(_N_FFT, _HOP).istft(panned, k1=max(audio.shape[1], _N_FFT), f_axis=-2, t_axis=-1)
    result: np.ndarray = restored[:, : audio.shape[1]].astype(np.float32)
    return result


def _shares_of_right(similarity: np.ndarray, side: float) -> np.ndarray:
    """Return |R| / (|L| + |R|) of channels that are 0.9 times as alike; ``side`` is 1 for the right and -1."""
    wanted = _CLOSER * np.clip(similarity, 0, 1)
    # The similarity of shares (1 - p) / 2 and (1 + p) / 2 is (1 - p^2) / (1 + p^2).
    position: np.ndarray = side * np.sqrt((1 - wanted) / (1 + wanted))
    return (1 + position) / 2


def _side(magnitudes: np.ndarray, frequencies: np.ndarray) -> float:
    """Return -1 for a stem that is louder on the left, else 1."""
    band = (frequencies >= _SIDE_HZ[0]) & (frequencies < _SIDE_HZ[1])
    left, right = np.square(magnitudes[:, band], dtype=np.float64).sum(axis=(1, 2))
    return -1.0 if left > right else 1.0


def _loud(spectra: np.ndarray) -> np.ndarray:
    """Return which frames have a bin above the threshold in the sum of the channels."""
    loud: np.ndarray = np.abs(spectra.sum(axis=0)).max(axis=0) >= _LOUD
    return loud


def _spectra(audio: np.ndarray) -> np.ndarray:
    """Return ``(2, 1025, frames)``; audio of less than a frame is continued by zeros."""
    padded = np.pad(audio, ((0, 0), (0, max(0, _N_FFT - audio.shape[1]))))
    spectra: np.ndarray = short_time_transform(_N_FFT, _HOP).stft(padded)
    return spectra.astype(np.complex64)
