"""A track of named stems."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sonido_bench.datamodules.stems.audio_file import StemFile, read_part
from sonido_bench.datamodules.stems.batch import StemFormat

__all__ = ["StemTrack", "grid"]


@dataclass(frozen=True)
class StemTrack:
    """Where a track's audio lies; nothing is read until it is asked for, and only the part that is.

    Attributes:
        name: Unique in its data set.
        stems: Files of each stem, which are added; a stem that is absent or has no file is silent.
        mixture: The mix; ``None`` for the sum of the stems. It need not equal that sum, not even in MUSDB18.
        heard: The file whose cached features belong to the track, or ``None`` if there is none: the mixture in
            separation, the mono downmix of the stems in mixing.
    """

    name: str
    stems: Mapping[str, tuple[StemFile, ...]]
    mixture: StemFile | None = None
    heard: StemFile | None = None

    def samples(self, sample_rate: int) -> int:
        """Return the length: the mixture's, or without one the longest stem's."""
        files = [self.mixture] if self.mixture else [file for stem in self.stems.values() for file in stem]
        return max((file.samples(sample_rate) for file in files), default=0)

    def read_stems(self, start: int, samples: int, format: StemFormat) -> Tensor:
        """Read a part of all stems, ``(stems, channels, samples)`` float32; raises as ``read_stem``."""
        return torch.stack([self.read_stem(name, start, samples, format) for name in format.names])

    def read_stem(self, name: str, start: int, samples: int, format: StemFormat) -> Tensor:
        """Read a part of one stem.

        Args:
            name: Of the stem.
            start: First sample, at the format's rate.
            samples: Length; zeros follow the file's end.
            format: Of the result.

        Returns:
            ``(channels, samples)`` float32.

        Raises:
            DataError: If a file cannot be read or has changed.
        """
        stem = torch.zeros(format.channels, samples)
        for file in self.stems.get(name, ()):
            stem += read_part(file, start, samples, format.sample_rate, format.channels)
        return stem

    def read(self, start: int, samples: int, format: StemFormat) -> tuple[Tensor, Tensor]:
        """Read a part of stems and mixture, ``(stems, channels, samples)`` and ``(channels, samples)``.

        Raises:
            DataError: As ``read_stem`` does.
        """
        stems = self.read_stems(start, samples, format)
        if self.mixture is None:
            return stems, stems.sum(dim=0)
        return stems, read_part(self.mixture, start, samples, format.sample_rate, format.channels)

    def chunks(self, seconds: float, format: StemFormat) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Read the whole track a chunk at a time, so that memory does not grow with its length.

        Yields:
            First sample, stems and mixture of each chunk of ``grid``.
        """
        for start, samples in grid(self.samples(format.sample_rate), round(seconds * format.sample_rate)):
            yield start, *self.read(start, samples, format)


def grid(samples: int, chunk: int) -> list[tuple[int, int]]:
    """Divide a length into chunks that follow one another.

    The last one is longer by a remainder of less than half a chunk: a scrap of its own would be scored as one window
    by scores that work on windows.

    Returns:
        Start and length of each.
    """
    count = max(1, (2 * samples + chunk) // (2 * chunk)) if samples else 0
    return [(index * chunk, chunk if index < count - 1 else samples - index * chunk) for index in range(count)]
