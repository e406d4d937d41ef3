"""Audio files of stems: examined once from end to end, then read a part at a time at any sample rate."""

import re
from dataclasses import dataclass
from fractions import Fraction
from hashlib import file_digest
from math import ceil
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.audio import resample
from sonido_bench.errors import DataError

__all__ = ["SUFFIXES", "StemFile", "examine", "read_part"]

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")

_BLOCK = 2**20  # frames that are examined at a time
_KERNEL = 8  # samples of the lower rate on each side that a resampled sample depends on, and some
_UNKNOWN_LENGTH = 2**31 - 2**16  # bytes and more: what programs write that do not know the length, as into a pipe
_SHORT_WAV = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)  # libsndfile's log


@dataclass(frozen=True)
class StemFile:
    """An audio file, as ``examine`` found it.

    Attributes:
        path: The file.
        frames: Its length in samples per channel.
        sample_rate: In Hz.
        channels: Their number.
        sha256: Of its bytes.
    """

    path: Path
    frames: int
    sample_rate: int
    channels: int
    sha256: str

    def samples(self, sample_rate: int) -> int:
        """Return its length at another sample rate."""
        return ceil(Fraction(self.frames * sample_rate, self.sample_rate))


def examine(path: Path) -> StemFile:
    """Read a file from end to end, a block at a time.

    Raises:
        DataError: If it is missing, unreadable, truncated or empty, or holds NaN or infinity.
    """
    try:
        log = soundfile.info(path, verbose=True)
        with soundfile.SoundFile(path) as file:
            expected, rate, channels = int(file.frames), int(file.samplerate), int(file.channels)
            found = 0
            for block in file.blocks(_BLOCK, dtype="float32", always_2d=True):
                _refuse_non_finite(path, block)
                found += len(block)
        with path.open("rb") as bytes_:
            digest = file_digest(bytes_, "sha256").hexdigest()
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{path}: expected readable audio, found: {error}; fetch or export it again") from error
    declared = _SHORT_WAV.search(log.extra_info)
    cut = declared is not None and int(declared[2]) < int(declared[1]) < _UNKNOWN_LENGTH
    if cut or found < expected:
        raise DataError(f"{path}: ends after {found / rate:g} s, before its header says; fetch or export it again")
    if not found:
        raise DataError(f"{path}: expected audio, found no samples; fetch or export it again")
    return StemFile(path, found, rate, channels, digest)


def read_part(file: StemFile, start: int, samples: int, sample_rate: int, channels: int) -> Tensor:
    """Read a part of a file at a sample rate; parts that are joined give the whole file, resampled at once.

    Args:
        file: The file.
        start: First sample, at ``sample_rate``.
        samples: Length at ``sample_rate``; zeros follow the file's end.
        sample_rate: Of the result in Hz.
        channels: Of the result.

    Returns:
        ``(channels, samples)`` float32.

    Raises:
        DataError: If the file has changed since it was examined, or its channels cannot become ``channels``.
    """
    ratio = Fraction(sample_rate, file.sample_rate)
    up, down = ratio.numerator, ratio.denominator
    # The filters of a resampling repeat every `down` input and `up` output samples: begin on such a border, with room.
    margin = 0 if ratio == 1 else ceil(_KERNEL * max(1, down / up) / down)
    block = max(0, start // up - margin)
    begin, end = block * down, min(ceil((start + samples) * down / up) + margin * down, file.frames)
    if begin >= end:
        return torch.zeros(channels, samples)
    audio = resample(_read(file, begin, end - begin), file.sample_rate, sample_rate)
    offset = start - block * up
    part = audio[:, offset : min(offset + samples, file.samples(sample_rate) - block * up)]
    return F.pad(_with_channels(part, channels, file), (0, samples - part.shape[1])).contiguous()


def _read(file: StemFile, begin: int, frames: int) -> Tensor:
    try:
        with soundfile.SoundFile(file.path) as opened:
            found = (int(opened.frames), int(opened.samplerate), int(opened.channels))
            opened.seek(min(begin, found[0]))
            audio = opened.read(frames, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{file.path}: expected readable audio, found: {error}; prepare the data again") from error
    expected = (file.frames, file.sample_rate, file.channels)
    if found != expected or len(audio) < frames:
        raise DataError(
            f"{file.path}: expected frames, sample rate and channels {expected}, found {found}; "
            "it has changed or is truncated: prepare the data again"
        )
    _refuse_non_finite(file.path, audio)
    return torch.from_numpy(np.ascontiguousarray(audio.T))


def _refuse_non_finite(path: Path, audio: np.ndarray) -> None:
    if not np.isfinite(audio).all():
        raise DataError(f"{path}: expected finite samples, found NaN or infinity; fetch or export it again")


def _with_channels(audio: Tensor, channels: int, file: StemFile) -> Tensor:
    if len(audio) == channels:
        return audio
    if len(audio) == 1:
        return audio.expand(channels, -1)
    if channels == 1:
        return audio.mean(dim=0, keepdim=True)
    raise DataError(f"{file.path}: expected 1 or {channels} channels, found {len(audio)}; export it with {channels}")
