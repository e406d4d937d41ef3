"""Tempo and pitch of audio, changed one without the other.

Waveform-similarity overlap-add: W. Verhelst and M. Roelands (1993), *An overlap-add technique based on waveform
similarity (WSOLA) for high quality time-scale modification of speech*.
"""

import numpy as np
import torch
from scipy import signal
from torch import Tensor

from sonido_bench.audio import resample
from sonido_bench.datamodules.augmentation import resampling_ratio

__all__ = ["change_tempo", "repitch"]

_WINDOW_SECONDS = 0.046
_SEARCH_SECONDS = 0.011  # how far a window may be moved to fit what came before


def change_tempo(audio: Tensor, tempo: float, sample_rate: int) -> Tensor:
    """Play audio faster or slower at its pitch.

    Args:
        audio: ``(channels, samples)`` float32; all channels are cut at the same places.
        tempo: Above 1 is faster.
        sample_rate: In Hz.

    Returns:
        ``(channels, round(samples / tempo))`` float32.

    Raises:
        ValueError: If ``tempo`` is not above 0.
    """
    if not tempo > 0:
        raise ValueError(f"tempo must be above 0, got {tempo}")
    hop = max(1, round(_WINDOW_SECONDS * sample_rate / 2))
    search = round(_SEARCH_SECONDS * sample_rate)
    samples, length = audio.shape[1], round(audio.shape[1] / tempo)
    windows = -(-length // hop) + 1
    # Half a window before the start, so that the first whole hop of the result has two windows; zeros at the end.
    padding = (hop + search, max(0, round(windows * hop * tempo) + 3 * hop + 2 * search - samples))
    padded = np.pad(audio.numpy(), ((0, 0), padding))
    window = signal.get_window("hann", 2 * hop).astype(np.float32)
    result = np.zeros((len(padded), (windows + 1) * hop), np.float32)
    for index, place in enumerate(_places(padded.mean(axis=0, dtype=np.float64), windows, hop, search, tempo)):
        result[:, index * hop : (index + 2) * hop] += window * padded[:, place : place + 2 * hop]
    return torch.from_numpy(np.ascontiguousarray(result[:, hop : hop + length]))


def _places(mono: np.ndarray, windows: int, hop: int, search: int, tempo: float) -> list[int]:
    """Return where each window is taken from: near its place, and as like what follows the one before as can be."""
    places = [search]
    for index in range(1, windows):
        nominal = round(index * hop * tempo) + search
        wanted = mono[places[-1] + hop : places[-1] + 3 * hop]
        region = mono[nominal - search : nominal + search + 2 * hop]
        likeness = signal.correlate(region, wanted, "valid")
        energy = np.concatenate([[0.0], np.cumsum(np.square(region))])
        likeness /= np.sqrt(np.maximum(energy[2 * hop :] - energy[: -2 * hop], 1e-9))
        silent = not likeness.max() > 1e-6
        places.append(nominal if silent else nominal - search + int(np.argmax(likeness)))
    return places


def repitch(audio: Tensor, semitones: int, tempo: float, sample_rate: int) -> Tensor:
    """Change pitch and tempo, each on its own.

    Args:
        audio: ``(channels, samples)`` float32.
        semitones: Of the pitch, at most 4 cents off.
        tempo: Above 1 is faster.
        sample_rate: In Hz.

    Returns:
        About ``samples / tempo`` samples, ``(channels, ...)`` float32.
    """
    ratio = resampling_ratio(sample_rate, sample_rate, semitones)  # as on tape, which changes the tempo too
    played = resample(audio, ratio.numerator, ratio.denominator)
    return change_tempo(played, tempo / float(ratio), sample_rate)
