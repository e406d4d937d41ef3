"""Audio files, resampling and mel spectra: the only module that touches torchaudio."""

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.clips import Clip
from sonido_bench.errors import ConfigError, DataError

__all__ = [
    "load_clip",
    "log_mel",
    "mel_filterbank",
    "power_spectrum",
    "read_audio",
    "read_clip",
    "read_mono",
    "resample",
    "to_mono",
    "write_audio",
]

_VORBIS_CHUNK = 65_536  # frames; libvorbis overflows the stack on one large write (libsndfile issue 1095)
_ROUNDING = 2  # samples that a clip may lack because start and length were rounded


def load_clip(clip: Clip) -> tuple[Tensor, int]:
    """Read a clip as it is in its file; only the clip's part of the file is decoded.

    Returns:
        ``(channels, round(seconds * rate))`` float32 in [-1, 1], and the file's sample rate in Hz.

    Raises:
        DataError: If the file is missing, unreadable, ends before the clip does, or holds NaN or infinity.
    """
    try:
        with soundfile.SoundFile(clip.path) as file:
            rate, wanted = int(file.samplerate), round(clip.seconds * file.samplerate)
            file.seek(min(round(clip.start * rate), file.frames))
            audio = torch.from_numpy(file.read(wanted, dtype="float32", always_2d=True).T)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{clip.path}: expected readable audio, found: {error}; fetch or render it again") from error
    if audio.shape[1] < wanted - _ROUNDING:
        raise DataError(
            f"{clip.path}: expected {clip.seconds:g} s from {clip.start:g} s, found {audio.shape[1] / rate:g} s; "
            "the file is truncated: fetch or render it again"
        )
    if not torch.isfinite(audio).all():
        raise DataError(f"{clip.path}: expected finite samples, found NaN or infinity; fetch or render it again")
    return F.pad(audio, (0, wanted - audio.shape[1])).contiguous(), rate


def read_clip(clip: Clip, sample_rate: int) -> Tensor:
    """Read a clip at a sample rate.

    Args:
        clip: File, start and length.
        sample_rate: Wanted, in Hz; a file of another rate is resampled.

    Returns:
        ``(channels, round(seconds * sample_rate))`` float32 in [-1, 1].

    Raises:
        DataError: As ``load_clip`` does.
    """
    audio, rate = load_clip(clip)
    resampled = resample(audio, rate, sample_rate)
    samples = round(clip.seconds * sample_rate)
    return F.pad(resampled, (0, max(0, samples - resampled.shape[1])))[:, :samples].contiguous()


def read_audio(path: Path) -> tuple[Tensor, int]:
    """Read a whole file.

    Returns:
        ``(channels, samples)`` float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        DataError: If the file is missing, unreadable or empty, or holds NaN or infinity.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{path}: expected readable audio (wav, flac, ogg, mp3), found: {error}") from error
    if not len(samples) or not np.isfinite(samples).all():
        raise DataError(f"{path}: expected finite samples, found {'NaN or infinity' if len(samples) else 'none'}")
    return torch.from_numpy(np.ascontiguousarray(samples.T)), int(rate)


def read_mono(path: Path, sample_rate: int) -> Tensor:
    """Read a file as mono at a sample rate, ``(1, samples)``.

    Raises:
        DataError: If it cannot be read.
    """
    audio, rate = read_audio(path)
    return resample(to_mono(audio), rate, sample_rate).unsqueeze(0)


def write_audio(path: Path, audio: Tensor, sample_rate: int) -> None:
    """Write audio as WAV or FLAC (16 bit) or Ogg Vorbis, by the path's suffix.

    Args:
        path: Ends in ``.wav``, ``.flac`` or ``.ogg``.
        audio: ``(channels, samples)`` in [-1, 1]; values beyond are clipped.
        sample_rate: In Hz.

    Raises:
        DataError: If the audio is not finite or the file cannot be written.
    """
    if audio.ndim != 2 or not torch.isfinite(audio).all():
        raise DataError(f"{path}: expected finite audio (channels, samples), got {tuple(audio.shape)}")
    frames = np.ascontiguousarray(audio.detach().cpu().float().numpy().T)
    try:
        with soundfile.SoundFile(path, "w", samplerate=sample_rate, channels=frames.shape[1]) as file:
            for start in range(0, len(frames), _VORBIS_CHUNK):
                file.write(frames[start : start + _VORBIS_CHUNK])
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected a writable .wav, .flac or .ogg file: {error}") from error


def to_mono(audio: Tensor) -> Tensor:
    """Average the channels: ``(..., channels, samples)`` to ``(..., samples)``."""
    return audio.mean(dim=-2)


def resample(audio: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resample ``(..., samples)`` by windowed-sinc interpolation; the length becomes ``ceil(samples * new / old)``."""
    if rate == new_rate:
        return audio
    resampled: Tensor = _resampler(rate, new_rate)(audio)
    return resampled


@lru_cache(maxsize=8)
def _resampler(rate: int, new_rate: int) -> torch.nn.Module:
    resampler: torch.nn.Module = torchaudio.transforms.Resample(rate, new_rate)
    return resampler


def power_spectrum(audio: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Short-time power of centred frames, scaled so that a full-scale sine has power 1 at its frequency.

    Args:
        audio: ``(batch, samples)`` float32.
        window: ``(n_fft,)``; frame ``i`` is centred at sample ``i * hop_length``, zeros lie beyond the edges.
        hop_length: In samples.

    Returns:
        ``(batch, 1 + samples // hop_length, n_fft // 2 + 1)``.
    """
    spectrum = torch.stft(
        audio, len(window), hop_length, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = torch.view_as_real(spectrum).square().sum(dim=-1)
    return power.transpose(1, 2) * (2 / window.sum()).square()


def mel_filterbank(sample_rate: int, n_fft: int, num_mels: int, f_min: float, f_max: float | None = None) -> Tensor:
    """Triangular filters of height 1 on the Slaney mel scale, shape ``(n_fft // 2 + 1, num_mels)``.

    Args:
        sample_rate: In Hz.
        n_fft: Length of the Fourier transform.
        num_mels: Number of filters.
        f_min: Lowest edge in Hz.
        f_max: Highest edge in Hz; ``None``: half the sample rate.

    Raises:
        ConfigError: If the edges do not rise within half the sample rate, or a filter holds no frequency bin.
    """
    top = sample_rate / 2 if f_max is None else f_max
    if not 0 <= f_min < top <= sample_rate / 2:
        raise ConfigError(f"expected 0 <= f_min < f_max <= {sample_rate / 2:g} Hz, got {f_min:g} and {top:g}")
    with warnings.catch_warnings(action="ignore"):  # of empty filters, which are an error here
        filters: Tensor = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, f_min, top, num_mels, sample_rate, norm=None, mel_scale="slaney"
        )
    if (filters.amax(dim=0) == 0).any():
        raise ConfigError(f"{num_mels} mel bands are too many for n_fft={n_fft} at {sample_rate} Hz: lower num_mels")
    return filters


def log_mel(power: Tensor, filterbank: Tensor, floor_db: float = -80.0) -> Tensor:
    """Mel spectrum in decibels, scaled so that silence is -1 and a full-scale sine about 1.

    ``10 log10(mel + floor)`` runs from ``floor_db`` to about 0 dB and is mapped linearly to [-1, 1]; several
    partials within one band may exceed 1 by about 0.1.

    Args:
        power: ``(..., bins)``, as :func:`power_spectrum` scales it.
        filterbank: ``(bins, mels)``.
        floor_db: Of silence, below zero.
    """
    decibels = 10 * torch.log10(power @ filterbank + 10 ** (floor_db / 10))
    return 1 - 2 * decibels / floor_db
