"""Audio files read, resampled and written a block at a time, so that memory does not grow with their length."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.audio import resample, to_mono
from sonido_bench.errors import DataError
from sonido_bench.files import atomic_path

__all__ = ["AudioFormat", "WavWriters", "even_blocks", "read_blocks", "resample_stream", "wav_writers", "with_channels"]

_BLOCK = 2**18  # frames that are read at a time
_KERNEL = 8  # samples of the lower rate on each side that a resampled sample depends on, and some
_LARGEST_WAV = 2**32 - 2**16  # bytes; its header holds no more
_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
"""Of a sample in each subtype of WAV that is written, from the coarsest to the finest."""


@dataclass(frozen=True)
class AudioFormat:
    """How audio is stored.

    Attributes:
        sample_rate: In Hz.
        channels: Their number.
        subtype: libsndfile's name of the samples' type.
    """

    sample_rate: int
    channels: int
    subtype: str

    @classmethod
    def of(cls, path: Path) -> "AudioFormat":
        """Return the format of a file as a WAV file can hold it; lossy files, which have no bit depth, as 16 bit.

        Raises:
            DataError: If the file is missing or unreadable.
        """
        try:
            info = soundfile.info(path)
        except (soundfile.LibsndfileError, OSError) as error:
            raise DataError(f"{path}: expected readable audio (wav, flac, ogg, mp3), found: {error}") from error
        subtype = "PCM_U8" if info.subtype == "PCM_S8" else info.subtype
        return cls(info.samplerate, info.channels, subtype if subtype in _BYTES else "PCM_16")

    @staticmethod
    def finest(formats: Iterable["AudioFormat"], channels: int) -> "AudioFormat":
        """Return the highest rate and the finest subtype of several formats."""
        found = list(formats)
        subtype = max((each.subtype for each in found), key=[*_BYTES].index)
        return AudioFormat(max(each.sample_rate for each in found), channels, subtype)


def read_blocks(path: Path, sample_rate: int, channels: int) -> Iterator[Tensor]:
    """Read a file from its beginning.

    Args:
        path: The file.
        sample_rate: Of what is given out, in Hz.
        channels: Of what is given out.

    Yields:
        Blocks ``(channels, samples)`` float32; joined, they are the file, resampled at once.

    Raises:
        DataError: If the file cannot be read, holds NaN or infinity, or its channels do not fit.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
            blocks = (
                torch.from_numpy(block.T.copy()) for block in file.blocks(_BLOCK, dtype="float32", always_2d=True)
            )
            yield from resample_stream(
                (with_channels(_finite(path, block), channels) for block in blocks), rate, sample_rate
            )
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{path}: expected readable audio, found: {error}; export it again") from error


def resample_stream(blocks: Iterable[Tensor], rate: int, new_rate: int) -> Iterator[Tensor]:
    """Resample audio as it comes.

    Args:
        blocks: ``(..., samples)`` of any length, at least one.
        rate: Theirs, in Hz.
        new_rate: Of the result.

    Yields:
        Blocks that, joined, are what ``audio.resample`` makes of the joined input.
    """
    if rate == new_rate:
        yield from blocks
        return
    ratio = Fraction(new_rate, rate)
    up, down = ratio.numerator, ratio.denominator
    # The filters repeat every `down` input and `up` output samples, a period: cut only there, and keep some as context.
    margin = ceil(_KERNEL * max(1, down / up) / down)
    held: Tensor | None = None
    given = 0  # samples of the resampled held ones that were given out before
    for block in chain(blocks, [None]):
        if block is not None:
            held = block if held is None else torch.cat([held, block], dim=-1)
        if held is None or (block is not None and held.shape[-1] < (2 * margin + 1) * down):
            continue
        resampled = resample(held.contiguous(), rate, new_rate)
        if block is None:
            yield resampled[..., given:]
            return
        periods = held.shape[-1] // down
        yield resampled[..., given : (periods - margin) * up]
        held, given = held[..., (periods - 2 * margin) * down :].clone(), margin * up


def even_blocks(blocks: Iterable[Tensor], length: int, samples: int) -> Iterator[Tensor]:
    """Cut a stream anew, so that several can be joined.

    Args:
        blocks: ``(channels, any number of samples)``, at least one.
        length: Of the blocks that are given out, but for the last.
        samples: Of all of them; zeros follow the stream's end.

    Yields:
        ``(channels, length)``.
    """
    stream, held = iter(blocks), torch.zeros(0, 0)
    for start in range(0, samples, length):
        wanted = min(length, samples - start)
        while held.shape[-1] < wanted and (block := next(stream, None)) is not None:
            held = torch.cat([held, block], dim=-1) if held.numel() else block
        yield F.pad(held[..., :wanted], (0, max(0, wanted - held.shape[-1])))
        held = held[..., wanted:].clone()


def with_channels(audio: Tensor, channels: int) -> Tensor:
    """Bring ``(channels, samples)`` to a number of channels: one is repeated, and several are averaged for one.

    Raises:
        DataError: If neither number is 1.
    """
    if len(audio) == channels:
        return audio
    if len(audio) == 1:
        return audio.expand(channels, -1)
    if channels == 1:
        return to_mono(audio)[None]
    raise DataError(f"expected audio of 1 or {channels} channels, found {len(audio)}; mix it down first")


class WavWriters:
    """Open WAV files of one format and length, written side by side; see ``wav_writers``."""

    def __init__(self, files: Mapping[str, soundfile.SoundFile], frames: int) -> None:
        self._files = files
        self._left = frames

    def write(self, audio: Mapping[str, Tensor]) -> None:
        """Append ``(channels, samples)`` to every file; what exceeds the length is dropped, full scale clips.

        Raises:
            DataError: If the disk is full.
        """
        samples = next(iter(audio.values())).shape[-1]
        for name, file in self._files.items():
            try:
                file.write(np.ascontiguousarray(audio[name][:, : self._left].float().numpy().T))
            except (soundfile.LibsndfileError, OSError, AssertionError) as error:  # an assertion: fewer were written
                raise DataError(f"{file.name}: cannot be written: {error}; free some space") from error
        self._left -= min(samples, self._left)


@contextmanager
def wav_writers(paths: Mapping[str, Path], format: AudioFormat, frames: int) -> Iterator[WavWriters]:
    """Open WAV files that appear, whole, when the block ends without an error.

    Args:
        paths: Where to, by any names; folders are made when missing.
        format: Of all of them.
        frames: Their length in samples a channel.

    Raises:
        DataError: If one cannot be opened.
    """
    container = "RF64" if frames * format.channels * _BYTES[format.subtype] > _LARGEST_WAV else "WAV"
    with ExitStack() as stack:
        files = {}
        for name, path in paths.items():
            try:
                temporary = stack.enter_context(atomic_path(path))
                file = soundfile.SoundFile(
                    temporary, "w", format.sample_rate, format.channels, format.subtype, format=container
                )
            except (soundfile.LibsndfileError, OSError) as error:
                raise DataError(f"{path}: cannot be written: {error}; choose another --output folder") from error
            files[name] = stack.enter_context(file)
        yield WavWriters(files, frames)


def _finite(path: Path, block: Tensor) -> Tensor:
    if not torch.isfinite(block).all():
        raise DataError(f"{path}: expected finite samples, found NaN or infinity; export it again")
    return block
