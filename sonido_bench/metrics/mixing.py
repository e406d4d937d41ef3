"""Errors of a mix against the target mix: mean absolute percentage errors of features of its sound.

The features of FxNorm-Automix (Martínez-Ramírez et al., 2022; ``utils_data_normalization.py`` and ``evaluate.py`` of
its code): spectrum, panning, dynamics and loudness; lower is better, 0.1 is 10 %. Frames have the published number of
samples whatever the sample rate (the code's is 44.1 kHz). All but loudness compare mixes of equal peak, and averages
over 40 frames. Spectral features follow librosa's definitions.

Known defects, kept so that figures can be compared: crest is a ratio of decibels; a zero sample counts as -600 dB in
the spread of levels; a channel that is digitally silent for long in the target has features near 0, of which any
leakage is a large percentage. Two divisions by next to nothing are not kept: see ``PANNING_FLOOR`` and
``LOUDNESS_FLOOR_DB``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyloudnorm
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import get_window

__all__ = [
    "MIXING_DETAILS",
    "MIXING_METRICS",
    "dynamic_errors",
    "loudness_errors",
    "mixing_scores",
    "panning_errors",
    "spectral_errors",
]

MIXING_METRICS = ("spectral_mape", "panning_mape", "dynamic_mape", "loudness_mape")
"""The means of the four groups, lower is better."""

MIXING_DETAILS = (
    *("spectral_centroid", "spectral_bandwidth", "spectral_contrast", "spectral_rolloff", "spectral_flatness"),
    *("panning_total", "panning_low", "panning_mid", "panning_high"),
    *("dynamic_rms", "dynamic_spread", "dynamic_crest"),
    *("loudness_lufs", "loudness_peak", "loudness_lufs_db", "loudness_peak_db"),
)
"""What these are means of, and differences in decibels; lower is better."""

FRAME, HOP, PANNING_FRAME = 4096, 1024, 2048
"""Samples of a frame and between frames, and of a frame of the panning spectrum."""
RUNNING_FRAMES = 40
"""Frames over which features are averaged before they are compared."""
PEAK_DB = -1.0
"""Peak of both mixes, in decibels below full scale, when their spectrum, panning and dynamics are compared."""
SILENCE = 1e-3
"""Amplitude below which the beginning and the end of the target do not count: SoX's 0.1 % in the published code."""
PANNING_FLOOR = 1e-3
"""Smallest divisor of panning errors: a strength of 0.4 dB between left and right, which is not heard. The published
code has none, and one second of a bass in the very middle makes a song's error larger than 1e6."""
LOUDNESS_FLOOR_DB = 1.0
"""Smallest divisor of loudness errors: a target that peaks at full scale, 0 dB, has none of its own."""
SILENCE_LUFS = -70.0
"""Loudness of silence: the absolute gate of ITU-R BS.1770, under which nothing is measured."""
SILENCE_PEAK_DB = -100.0
"""Peak of silence, in decibels below full scale."""
LOUDNESS_SECONDS = 0.4
"""The gating block of ITU-R BS.1770: shorter audio has no loudness."""

Audio = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

_BLOCK = 256
"""Frames that are transformed at a time."""
_PANNING_BANDS = {"panning_low": (0, 250), "panning_mid": (250, 2500)}
"""In Hz; the high band ends at half the sample rate."""
_CONTRAST_EDGES = (0.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0)
"""In Hz; the last band goes on to half the sample rate."""
_CONTRAST_QUANTILE = 0.02


def mixing_scores(
    reference: Audio, estimate: Audio, sample_rate: int, metrics: Sequence[str] = MIXING_METRICS
) -> dict[str, float]:
    """Errors of a mix, between the first and the last sound of the target.

    Whether a target has a score does not depend on the estimate, so that mixes of several systems have scores for the
    same songs. A silent estimate has finite, large errors.

    Args:
        reference: The target mix, ``(2, samples)``.
        estimate: Of the same shape.
        sample_rate: In Hz.
        metrics: Which of ``MIXING_METRICS``; others are not computed.

    Returns:
        ``metrics`` and their ``MIXING_DETAILS``, fractions but for the differences in decibels. All NaN for a target
        that sounds for less than 0.4 s or a frame; NaN for the panning of a target whose channels are equal.

    Raises:
        ValueError: If the shapes differ or are not stereo, there are samples for less than 0.4 s or a frame, a sample
            is not finite, the sample rate is too low for the highest bands, or there is no such metric.
    """
    if not set(metrics) <= set(_ERRORS):
        raise ValueError(f"expected metrics of {', '.join(_ERRORS)}, got {', '.join(metrics)}")
    wanted, found = _checked(reference, estimate, sample_rate)
    sounding = np.flatnonzero(np.abs(wanted).max(axis=0) > SILENCE)
    part = slice(sounding[0], sounding[-1] + 1) if len(sounding) else slice(0, 0)
    groups = tuple(name.removesuffix("mape") for name in metrics)
    names = (*MIXING_METRICS, *MIXING_DETAILS)
    scores = {name: float("nan") for name in names if name.startswith(groups)}
    if part.stop - part.start < _shortest(sample_rate):
        return scores
    for name in metrics:
        scores.update(_ERRORS[name](wanted[:, part], found[:, part], sample_rate))
    return scores


def spectral_errors(reference: Audio, estimate: Audio, sample_rate: int) -> dict[str, float]:
    """Errors of the shape of the spectrum, per channel.

    Args:
        reference: ``(2, samples)``.
        estimate: Of the same shape.
        sample_rate: In Hz.

    Returns:
        ``spectral_mape``, the mean of ``spectral_centroid``, ``spectral_bandwidth``, ``spectral_contrast`` (itself
        the mean of low, middle and high bands), ``spectral_rolloff`` and ``spectral_flatness``.

    Raises:
        ValueError: As ``mixing_scores`` does.
    """
    wanted, found = (
        _spectral_features(_peak_normalised(audio), sample_rate) for audio in _checked(reference, estimate, sample_rate)
    )
    errors = _errors(wanted, found)
    contrast = [errors.pop(f"contrast_{band}") for band in ("low", "mid", "high")]
    errors["spectral_contrast"] = float(np.mean(contrast))
    return {"spectral_mape": float(np.mean([*errors.values()])), **errors}


def panning_errors(reference: Audio, estimate: Audio, sample_rate: int) -> dict[str, float]:
    """Errors of the strength of the panning spectrum (Tzanetakis, Jones and McNally, 2007) in bands.

    Frames in which the target's channels are equal are left out. Sides do not matter: the channels of a mix can be
    swapped.

    Args:
        reference: ``(2, samples)``.
        estimate: Of the same shape.
        sample_rate: In Hz.

    Returns:
        ``panning_mape``, the mean of ``panning_total``, ``panning_low`` (below 250 Hz), ``panning_mid`` (to 2500 Hz)
        and ``panning_high``; NaN where the target's channels are equal in all frames.

    Raises:
        ValueError: As ``mixing_scores`` does.
    """
    wanted, found = (
        _panning_features(_peak_normalised(audio), sample_rate) for audio in _checked(reference, estimate, sample_rate)
    )
    panned = wanted["panning_total"] > 0
    if not panned.any():
        return dict.fromkeys(("panning_mape", *wanted), float("nan"))
    wanted, found = ({name: rms[panned] for name, rms in features.items()} for features in (wanted, found))
    errors = _errors(wanted, found, floor=PANNING_FLOOR)
    return {"panning_mape": float(np.mean([*errors.values()])), **errors}


def dynamic_errors(reference: Audio, estimate: Audio, sample_rate: int) -> dict[str, float]:
    """Errors of the levels within frames, the mean of the channels (Ma et al., 2015).

    Args:
        reference: ``(2, samples)``.
        estimate: Of the same shape.
        sample_rate: In Hz.

    Returns:
        ``dynamic_mape``, the mean of ``dynamic_rms`` (level), ``dynamic_spread`` (mean distance of the samples' level
        from it) and ``dynamic_crest`` (peak level over RMS level, both in decibels).

    Raises:
        ValueError: As ``mixing_scores`` does.
    """
    wanted, found = (_dynamic_features(_peak_normalised(audio)) for audio in _checked(reference, estimate, sample_rate))
    errors = _errors(wanted, found)
    return {"dynamic_mape": float(np.mean([*errors.values()])), **errors}


def loudness_errors(reference: Audio, estimate: Audio, sample_rate: int) -> dict[str, float]:
    """Errors of the loudness of the whole mix.

    Args:
        reference: ``(2, samples)``.
        estimate: Of the same shape.
        sample_rate: In Hz.

    Returns:
        ``loudness_mape``, the mean of ``loudness_lufs`` (integrated, ITU-R BS.1770) and ``loudness_peak``; and both
        differences in decibels, ``loudness_lufs_db`` and ``loudness_peak_db``.

    Raises:
        ValueError: As ``mixing_scores`` does.
    """
    wanted, found = (_levels(audio, sample_rate) for audio in _checked(reference, estimate, sample_rate))
    differences = {name: abs(wanted[name] - found[name]) for name in wanted}
    errors = {name: differences[name] / max(LOUDNESS_FLOOR_DB, abs(wanted[name])) for name in wanted}
    decibels = {f"{name}_db": difference for name, difference in differences.items()}
    return {"loudness_mape": float(np.mean([*errors.values()])), **errors, **decibels}


_ERRORS: Mapping[str, Callable[[Audio, Audio, int], dict[str, float]]] = dict(
    zip(MIXING_METRICS, (spectral_errors, panning_errors, dynamic_errors, loudness_errors), strict=True)
)


def _spectral_features(audio: Floats, sample_rate: int) -> dict[str, Floats]:
    """Features of each frame as librosa defines them, each ``(channels, frames)``, made safe to divide by."""
    frequencies = np.linspace(0, sample_rate / 2, FRAME // 2 + 1)
    bands = _contrast_bands(frequencies)
    blocks = [
        np.stack(
            [
                *_moments(spectrum, frequencies),
                _rolloff(spectrum, frequencies),
                _flatness(spectrum),
                *(edge for band in bands for edge in _valley_and_peak(spectrum, *band)),
            ]
        )
        for spectrum in _spectra(audio, FRAME)
    ]
    centroid, bandwidth, rolloff, flatness, *edges = np.concatenate(blocks, axis=-1)
    contrast = _decibels(np.stack(edges[1::2])) - _decibels(np.stack(edges[::2]))
    return {
        "spectral_centroid": centroid + 1,
        "spectral_bandwidth": bandwidth + 1,
        "spectral_rolloff": rolloff + 1,
        "spectral_flatness": 1 - 20 * np.log10(flatness + 1e-30),
        "contrast_low": contrast[0],
        "contrast_mid": contrast[1:4].mean(axis=0),
        "contrast_high": contrast[4],
    }


def _moments(spectrum: Floats, frequencies: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation in Hz of magnitudes taken as a distribution; 0 for silence."""
    total = spectrum.sum(axis=-1, keepdims=True)
    share = spectrum / np.where(total > 0, total, 1)
    centroid = share @ frequencies
    return centroid, np.sqrt((share * np.square(frequencies - centroid[..., None])).sum(axis=-1))


def _rolloff(spectrum: Floats, frequencies: Floats) -> Floats:
    """Frequency in Hz up to which 85 % of the magnitudes lie."""
    sums = spectrum.cumsum(axis=-1)
    rolloff: Floats = frequencies[(sums >= 0.85 * sums[..., -1:]).argmax(axis=-1)]
    return rolloff


def _flatness(spectrum: Floats) -> Floats:
    """Geometric over arithmetic mean of the power, in (0, 1]."""
    power = np.maximum(np.square(spectrum), 1e-10)
    flatness: Floats = np.exp(np.log(power).mean(axis=-1)) / power.mean(axis=-1)
    return flatness


def _contrast_bands(frequencies: Floats) -> list[tuple[slice, int]]:
    """Bins of each band, and how many of them are its valley and its peak.

    As in librosa a band begins a bin before its edge, and ends before its last bin, which counts for the quantile.
    """
    bands = []
    for index, (low, high) in enumerate(pairwise(_CONTRAST_EDGES)):
        inside = np.flatnonzero((frequencies >= low) & (frequencies <= high))
        last = index == len(_CONTRAST_EDGES) - 2
        start = inside[0] - (index > 0)
        stop = len(frequencies) if last else inside[-1] + 1
        count = max(1, int(np.rint(_CONTRAST_QUANTILE * (stop - start))))
        bands.append((slice(start, stop if last else stop - 1), count))
    return bands


def _valley_and_peak(spectrum: Floats, bins: slice, count: int) -> tuple[Floats, Floats]:
    """Mean of the lowest and of the highest magnitudes of a band."""
    band = spectrum[..., bins]
    # Two calls: numpy's fast selection finds one place at a time.
    lowest = np.partition(band, count - 1, axis=-1)[..., :count]
    highest = np.partition(band, band.shape[-1] - count, axis=-1)[..., -count:]
    return lowest.mean(axis=-1), highest.mean(axis=-1)


def _decibels(values: Floats) -> Floats:
    """``librosa.power_to_db`` of ``(bands, channels, frames)``: 80 dB below the channel's maximum at most."""
    decibels = 10 * np.log10(np.maximum(values, 1e-10))
    limited: Floats = np.maximum(decibels, decibels.max(axis=(0, 2), keepdims=True) - 80)
    return limited


def _panning_features(audio: Floats, sample_rate: int) -> dict[str, Floats]:
    """RMS of the panning spectrum of each frame, in [0, 1], by band, each ``(frames,)``."""
    high = (_PANNING_BANDS["panning_mid"][1], sample_rate // 2)
    bands = {"panning_total": (0, sample_rate // 2), **_PANNING_BANDS, "panning_high": high}
    edges = {name: [edge * PANNING_FRAME // sample_rate for edge in band] for name, band in bands.items()}
    rows = []
    for left, right in _spectra(audio, PANNING_FRAME):
        power = np.square(left) + np.square(right)
        # One minus the similarity 2 LR / (L^2 + R^2); its sign, the side, is lost in the square.
        squares = np.square(np.square(left - right) / np.where(power > 0, power, 1))
        rows.append([np.sqrt(squares[:, start:stop].mean(axis=-1)) for start, stop in edges.values()])
    return dict(zip(edges, np.concatenate(rows, axis=-1), strict=True))


def _dynamic_features(audio: Floats) -> dict[str, Floats]:
    """Levels of each frame, mean of the channels, each ``(frames,)``, made safe to divide by."""
    rms = _level(np.sqrt(_frames(np.square(audio), FRAME).mean(axis=-1)))
    spread = _frames(_level(np.abs(audio)), FRAME).mean(axis=-1) - rms
    crest = _level(_frames(np.abs(audio), FRAME).max(axis=-1)) / rms
    features = {"dynamic_rms": 1 - rms, "dynamic_spread": 1 - spread, "dynamic_crest": crest}
    return {name: feature.mean(axis=0) for name, feature in features.items()}


def _level(amplitude: Floats) -> Floats:
    """Decibels of an amplitude, -600 of zero."""
    return 20 * np.log10(amplitude + 1e-30)


def _levels(audio: Floats, sample_rate: int) -> dict[str, float]:
    """Integrated loudness in LUFS and peak in decibels below full scale; silence has the module's levels."""
    loudness = float(pyloudnorm.Meter(sample_rate).integrated_loudness(audio.T))
    peak = float(_level(np.abs(audio).max()))
    return {"loudness_lufs": max(SILENCE_LUFS, loudness), "loudness_peak": max(SILENCE_PEAK_DB, peak)}


def _frames(audio: Floats, size: int) -> Floats:
    """View ``(channels, samples)`` as whole frames, ``(channels, frames, size)``; a shorter rest is dropped."""
    return sliding_window_view(audio, size, axis=-1)[:, ::HOP]


def _spectra(audio: Floats, size: int) -> Iterator[Floats]:
    """Magnitudes under the square root of a Hann window, ``(channels, frames, bins)``, some frames at a time."""
    window = np.sqrt(get_window("hann", size))
    frames = _frames(audio, size)
    for start in range(0, frames.shape[1], _BLOCK):
        yield np.abs(np.fft.rfft(frames[:, start : start + _BLOCK] * window))


def _peak_normalised(audio: Floats) -> Floats:
    """Bring the peak to ``PEAK_DB``; silence stays."""
    peak = np.abs(audio).max()
    return audio * (10 ** (PEAK_DB / 20) / peak) if peak > 0 else audio


def _errors(
    wanted: Mapping[str, Floats], found: Mapping[str, Floats], floor: float = float(np.finfo(np.float64).eps)
) -> dict[str, float]:
    """Mean absolute percentage error of each feature's running mean, as a fraction."""
    errors = {}
    for name in wanted:
        target, other = _running_mean(wanted[name]), _running_mean(found[name])
        errors[name] = float((np.abs(target - other) / np.maximum(np.abs(target), floor)).mean())
    return errors


def _running_mean(values: Floats) -> Floats:
    """Mean over every ``RUNNING_FRAMES`` frames, the last axis; over all where there are fewer."""
    frames = min(RUNNING_FRAMES, values.shape[-1])
    means: Floats = sliding_window_view(values, frames, axis=-1).mean(axis=-1)
    return means


def _shortest(sample_rate: int) -> int:
    """Samples that all features need."""
    return max(FRAME, int(np.ceil(LOUDNESS_SECONDS * sample_rate)))


def _checked(reference: Audio, estimate: Audio, sample_rate: int) -> tuple[Floats, Floats]:
    """Return both in double precision, stereo, of one length and long enough."""
    wanted, found = np.asarray(reference, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    if wanted.shape != found.shape or wanted.ndim != 2 or len(wanted) != 2:
        raise ValueError(f"expected two stereo mixes of one shape (2, samples), got {wanted.shape} and {found.shape}")
    if sample_rate < 8000:
        raise ValueError(f"expected a sample rate of at least 8000 Hz, got {sample_rate}; resample both mixes")
    if wanted.shape[1] < _shortest(sample_rate):
        raise ValueError(
            f"expected at least {_shortest(sample_rate)} samples (a frame, and {LOUDNESS_SECONDS:g} s for loudness), "
            f"got {wanted.shape[1]}; use longer clips"
        )
    for name, audio in (("reference", wanted), ("estimate", found)):
        if not np.isfinite(audio).all():
            raise ValueError(f"expected a finite {name}, found NaN or infinity; check the audio or the network")
    return wanted, found
