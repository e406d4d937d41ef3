"""Scores of separated sources, in decibels: cSDR and uSDR here, ISR, SIR and SAR by museval.

- cSDR ("chunk" SDR): the SDR of museval (BSS Eval v4; Stöter, Liutkus and Ito, 2018), the median over windows of one
  second. That SDR needs none of BSS Eval's filters, it is the signal-to-noise ratio of the window.
- uSDR ("utterance" SDR): one ratio over the whole track, as in the Music Demixing Challenge (Mitsufuji et al., 2022).

Audio is ``(sources, channels, samples)``. Estimates are cut, or padded with zeros, to the references' length, as in
museval. A score that a source does not have is NaN. The score of a source over tracks is a median in the evaluation
campaigns (SiSEC) and a mean in the challenges: ``over_tracks`` gives both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sonido_bench.errors import ConfigError

__all__ = ["SEPARATION_METRICS", "OverTracks", "bss_eval", "csdr", "frame_sdr", "over_tracks", "usdr"]

SEPARATION_METRICS = ("csdr", "usdr")
"""Names of the scores of this module, in decibels, higher is better."""

Audio = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_CHUNK = 65_536
"""Samples that are converted to double precision at a time."""
_USDR_DELTA = 1e-7
"""Added to both energies (sums over samples and channels) by the challenge's code."""


@dataclass(frozen=True)
class OverTracks:
    """Scores of a set of tracks, per source; tracks in which a source has no score are left out.

    Attributes:
        median: In decibels, ``(sources,)``; NaN where no track has a score.
        mean: In decibels, ``(sources,)``; NaN where no track has a score.
        tracks: How many tracks have a score, ``(sources,)``.
    """

    median: Floats
    mean: Floats
    tracks: NDArray[np.int64]


def frame_sdr(references: Audio, estimates: Audio, sample_rate: int) -> Floats:
    """SDR of every source in every window of one second, equal to museval's (``museval.evaluate``, mode ``v4``).

    Windows do not overlap. A rest shorter than a window is dropped, but a track shorter than a window is one window.
    Where any reference or estimate is silent in a window (its channels sum to zero in every sample), the window is
    NaN for all sources. Where an estimate is perfect, it is infinite.

    Args:
        references: ``(sources, channels, samples)``.
        estimates: As many sources and channels, any number of samples.
        sample_rate: In Hz.

    Returns:
        Decibels, ``(sources, windows)``. Where museval refuses a track, because a reference or an estimate is silent
        from beginning to end, all are NaN.

    Raises:
        ValueError: If the shapes do not agree, a sample is not finite, or the sample rate is not positive.
    """
    references, estimates = _checked(references, estimates, sample_rate)
    everyone = np.ones(len(references), dtype=np.bool_)
    return _frames(references, estimates, sample_rate, everyone, everyone)


def csdr(references: Audio, estimates: Audio, sample_rate: int) -> Floats:
    """SDR of a track: median over its windows, as museval's, and defined for tracks that museval refuses.

    Windows that are NaN or infinite are left out, as in museval's ``TrackStore``. Two rules go beyond museval, which
    raises an error instead: a source whose reference is silent from beginning to end is left out as if the track did
    not have it, and an estimate that is silent from beginning to end counts as it is, 0 dB, instead of making all
    windows NaN. So a network that gives nothing is scored; an estimate that is silent in some windows still loses them.

    Args:
        references: ``(sources, channels, samples)``.
        estimates: As many sources and channels, any number of samples.
        sample_rate: In Hz.

    Returns:
        Decibels, ``(sources,)``. NaN for a source with a silent reference, and for all sources where no window is
        left: where in each some source, or its estimate, rests.

    Raises:
        ValueError: As ``frame_sdr`` does.
    """
    references, estimates = _checked(references, estimates, sample_rate)
    present, given = (~_all_chunks(audio, _silent) for audio in (references, estimates))
    scores = np.full(len(references), np.nan)
    if present.any():
        frames = _frames(references, estimates, sample_rate, present, given)
        scores[present] = [_median(row) for row in frames]
    return scores


def usdr(references: Audio, estimates: Audio) -> Floats:
    """SDR over a whole track, the challenges' "new SDR", all channels together.

    Args:
        references: ``(sources, channels, samples)``.
        estimates: As many sources and channels, any number of samples.

    Returns:
        Decibels, ``(sources,)``; NaN for a source whose reference is all zeros, where the formula would tell the
        estimate's energy only.

    Raises:
        ValueError: If the shapes do not agree, or a sample is not finite.
    """
    references, estimates = _checked(references, estimates)
    signal, noise = np.zeros(len(references)), np.zeros(len(references))
    for start in range(0, references.shape[-1], _CHUNK):
        energies = _energies(references[..., start : start + _CHUNK], estimates[..., start : start + _CHUNK])
        signal, noise = signal + energies[0], noise + energies[1]
    scores = 10 * np.log10((signal + _USDR_DELTA) / (noise + _USDR_DELTA))
    return np.where(signal > 0, scores, np.nan)


def bss_eval(references: Audio, estimates: Audio, sample_rate: int) -> dict[str, Floats]:
    """All four ratios of BSS Eval v4, by museval: slow, several hundred times ``csdr`` (``benchmarks/``).

    Args:
        references: ``(sources, channels, samples)``.
        estimates: As many sources and channels, any number of samples.
        sample_rate: In Hz.

    Returns:
        ``sdr``, ``isr``, ``sir`` and ``sar`` in decibels, each ``(sources, windows)``, windows as in ``frame_sdr``.

    Raises:
        ConfigError: If museval, or the ffmpeg that it wants to be there, is missing.
        ValueError: As ``frame_sdr`` does, or if a reference or an estimate is silent from beginning to end.
    """
    references, estimates = _checked(references, estimates, sample_rate)
    for name, audio in (("references", references), ("estimates", estimates)):
        if _all_chunks(audio, _silent).any():
            raise ValueError(f"expected {name} that sound somewhere, found a silent one; leave its source out")
    try:
        import museval
    except ImportError as error:
        raise ConfigError("ISR, SIR and SAR need museval: pip install museval") from error
    except RuntimeError as error:  # raised by stempeg, which museval imports and which it does not use here
        raise ConfigError(
            "ISR, SIR and SAR need museval, which needs ffmpeg and ffprobe on the PATH; install them "
            f"(apt-get install ffmpeg): {error}"
        ) from error
    ratios = museval.evaluate(
        references.swapaxes(1, 2), estimates.swapaxes(1, 2), win=sample_rate, hop=sample_rate, mode="v4"
    )
    return dict(zip(("sdr", "isr", "sir", "sar"), ratios, strict=True))


def over_tracks(scores: ArrayLike) -> OverTracks:
    """Median and mean over the tracks that have a score.

    Args:
        scores: Of tracks and sources in decibels, ``(tracks, sources)``; not finite where there is none.

    Raises:
        ValueError: If the shape is another.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"expected scores (tracks, sources), got {table.shape}")
    columns = [column[np.isfinite(column)] for column in table.T]
    return OverTracks(
        median=np.array([_median(column) for column in columns]),
        mean=np.array([column.mean() if len(column) else np.nan for column in columns]),
        tracks=np.array([len(column) for column in columns], dtype=np.int64),
    )


def _frames(references: Audio, estimates: Audio, sample_rate: int, present: Bools, given: Bools) -> Floats:
    """SDR of the sources that are ``present``, where estimates that are not ``given`` may be silent."""
    windows = max(1, references.shape[-1] // sample_rate)
    frames = np.empty((int(present.sum()), windows))
    for index in range(windows):
        part = slice(index * sample_rate, (index + 1) * sample_rate)
        wanted, found = references[present, :, part], estimates[present, :, part]
        if _silent(wanted).any() or _silent(found[given[present]]).any():
            frames[:, index] = np.nan
            continue
        signal, noise = _energies(wanted, found)
        with np.errstate(divide="ignore"):
            frames[:, index] = 10 * np.log10(signal / noise)
    return frames


def _energies(references: Audio, estimates: Audio) -> tuple[Floats, Floats]:
    """Energy of each source, and of its error, ``(sources,)``."""
    wanted = references.astype(np.float64)
    return np.square(wanted).sum(axis=(1, 2)), np.square(wanted - estimates).sum(axis=(1, 2))


def _silent(audio: Audio) -> Bools:
    """Say of each source whether its channels sum to zero in every sample: museval's silence, ``(sources,)``."""
    mono = audio.sum(axis=1)
    silent: Bools = np.all(mono == 0, axis=1)
    return silent


def _finite(audio: Audio) -> Bools:
    """Say of each source whether all of its samples are finite, ``(sources,)``."""
    finite: Bools = np.all(np.isfinite(audio), axis=(1, 2))
    return finite


def _all_chunks(audio: Audio, holds: Callable[[Audio], Bools]) -> Bools:
    """Say of each source whether something holds in all of its samples; copies a chunk at a time only."""
    starts = range(0, audio.shape[-1], _CHUNK)
    everywhere: Bools = np.all(np.stack([holds(audio[..., start : start + _CHUNK]) for start in starts]), axis=0)
    return everywhere


def _median(values: Floats) -> float:
    """Median of the finite values; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _checked(references: Audio, estimates: Audio, sample_rate: int = 1) -> tuple[Audio, Audio]:
    """Return both as arrays, the estimates cut or padded to the references' length."""
    wanted, found = np.asarray(references), np.asarray(estimates)
    if wanted.ndim != 3 or found.ndim != 3 or wanted.shape[:2] != found.shape[:2] or not wanted.size:
        raise ValueError(
            "expected references and estimates (sources, channels, samples) with the same sources and channels, "
            f"got {wanted.shape} and {found.shape}"
        )
    if sample_rate < 1:
        raise ValueError(f"expected a sample rate of at least 1 Hz, got {sample_rate}")
    for name, audio in (("references", wanted), ("estimates", found)):
        if audio.size and not _all_chunks(audio, _finite).all():
            raise ValueError(f"expected finite {name}, found NaN or infinity; check the audio or the network")
    missing = wanted.shape[-1] - found.shape[-1]
    if missing > 0:
        found = np.pad(found, ((0, 0), (0, 0), (0, missing)))
    return wanted, found[..., : wanted.shape[-1]]
