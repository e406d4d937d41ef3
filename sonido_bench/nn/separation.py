"""Recordings of any length through a separation network: overlapping chunks, shifts, Wiener filtering."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import DataError
from sonido_bench.nn.umx import UMX

__all__ = [
    "Chunking",
    "PlacedSeparator",
    "Separator",
    "separate",
    "separate_placed",
    "separate_stream",
    "wiener_estimates",
]

Separator = Callable[[Tensor], Tensor]
"""A mixture ``(1, channels, samples)`` to ``(1, sources, channels, samples)``; a module must be in evaluation mode.

Features are its own affair: it extracts them from the mixture that it is given. It may give other channels than it
takes, as mixing does: all channels of the stems to those of a mix.
"""

PlacedSeparator = Callable[[Tensor, int], Tensor]
"""A ``Separator`` that is also told at which sample of the recording the chunk begins; below 0 there are zeros.

So it can use features of the whole recording.
"""

_WIENER_FRAMES = 300
"""Frames that share spatial covariances: the window of open-unmix (model.py, ``wiener_win_len``)."""


@dataclass(frozen=True)
class Chunking:
    """How a recording is cut and its chunks are joined; as demucs does (apply.py), whose defaults these are.

    Chunks are joined with triangular weights. With shifts, the recording is separated several times, each time with
    the chunks elsewhere, and the estimates are averaged: about 0.2 dB of SDR for that many times the cost.

    Attributes:
        samples: Length of a chunk: what the network is given. HTDemucs: its ``segment_samples``.
        overlap: Share of a chunk that the next one covers too.
        shifts: How often; 0: once, the first chunk at the start of the recording.
        max_shift: Largest shift in samples; demucs: half a second.
        seed: Of the shifts, so that a result can be had again.

    Raises:
        ValueError: If a value is out of range.
    """

    samples: int
    overlap: float = 0.25
    shifts: int = 0
    max_shift: int = 22050
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse chunks that do not advance."""
        if self.samples < 1 or not 0 <= self.overlap < 1 or self.stride < 1 or self.shifts < 0 or self.max_shift < 0:
            raise ValueError(f"expected positive samples, 0 <= overlap < 1, shifts and max_shift from 0, got {self}")

    @property
    def stride(self) -> int:
        """Samples from one chunk to the next."""
        return int((1 - self.overlap) * self.samples)

    def leads(self) -> list[int]:
        """Return, for each time the recording is separated, the zeros to put before it."""
        if self.shifts == 0:
            return [0]
        generator = random.Random(self.seed)
        return [self.max_shift - generator.randint(0, self.max_shift) for _ in range(self.shifts)]


def separate_stream(
    separator: Separator,
    blocks: Iterable[Tensor],
    chunking: Chunking,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Separate a recording as it is read, in memory that does not grow with its length.

    Args:
        separator: Applied to one chunk at a time; shorter recordings are centred in a chunk of zeros.
        blocks: The recording in order, each ``(channels, samples)`` float32 on the CPU, of any length.
        chunking: How it is cut.
        device: Where ``separator`` wants its input.
        progress: Called with the number of samples that are finished, whenever it has grown.

    Yields:
        The estimates in order, each ``(sources, channels, samples)``; together as long as the recording.

    Raises:
        DataError: If the recording is empty, holds NaN or infinity, or its channels change.
        ValueError: If the separator is in training mode or gives another shape.
    """
    if isinstance(separator, nn.Module) and separator.training:
        raise ValueError(
            f"expected a network in evaluation mode, got {type(separator).__name__} in training; eval() it"
        )
    yield from _run(lambda chunk, _: separator(chunk), blocks, chunking, device, progress)


def _run(
    separator: PlacedSeparator,
    blocks: Iterable[Tensor],
    chunking: Chunking,
    device: torch.device | str,
    progress: Callable[[int], None] | None,
) -> Iterator[Tensor]:
    """Yield the estimates of a recording, see ``separate_stream``."""
    runs = [_Run(separator, chunking, lead, device) for lead in chunking.leads()]
    finished: list[list[Tensor]] = [[] for _ in runs]
    done = 0
    for piece in chain(_pieces(blocks, chunking.stride), [None]):
        for run, parts in zip(runs, finished, strict=True):
            parts.extend(run.finish() if piece is None else run.push(piece))
        if all(finished):
            estimate = _take_mean(finished)
            done += estimate.shape[-1]
            if progress is not None:
                progress(done)
            yield estimate


def separate(
    separator: Separator,
    mixture: Tensor,
    chunking: Chunking,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Separate a recording that is held in memory.

    Args:
        separator: As of ``separate_stream``, which see for all else.
        mixture: ``(channels, samples)`` float32 on the CPU.
        chunking: How it is cut.
        device: Where ``separator`` wants its input.
        progress: Called with the number of samples that are finished.

    Returns:
        ``(sources, channels, samples)``.
    """
    return torch.cat([*separate_stream(separator, [mixture], chunking, device, progress)], dim=-1)


def separate_placed(
    separator: PlacedSeparator, mixture: Tensor, chunking: Chunking, device: torch.device | str = "cpu"
) -> Tensor:
    """Separate a recording that is held in memory by a separator that is told where each chunk lies.

    Args:
        separator: Applied to one chunk at a time; a network in it must be in evaluation mode.
        mixture: ``(channels, samples)`` float32 on the CPU.
        chunking: How it is cut.
        device: Where ``separator`` wants its input.

    Returns:
        ``(sources, channels, samples)``.

    Raises:
        DataError: If the recording is empty, or holds NaN or infinity.
        ValueError: If the separator gives another shape.
    """
    return torch.cat([*_run(separator, [mixture], chunking, device, None)], dim=-1)


def wiener_estimates(
    network: UMX,
    mixture: Tensor,
    features: dict[str, Tensor] | None = None,
    iterations: int = 1,
    residual: bool = False,
) -> Tensor:
    """Turn UMX's magnitudes into audio by a multichannel Wiener filter (open-unmix, model.py, ``Separator``).

    The filter is demucs' copy of open-unmix' and runs in double precision, as its authors recommend, over windows of
    300 frames. A step of expectation-maximisation costs more than four networks together: validate without.

    Args:
        network: In evaluation mode.
        mixture: ``(batch, channels, samples)``, longer than half of ``n_fft``.
        features: On the frames of ``network.stft(centred=True)``, every stream ``(batch, frames, dim)``.
        iterations: Of expectation-maximisation; 0 gives every magnitude the phase of the mixture.
        residual: Add what the targets leave of the mixture, as a last source.

    Returns:
        ``(batch, sources, channels, samples)``, the sources in the order of ``network.targets``.

    Raises:
        ValueError: If iterations are wanted of a single source, or of more than two channels.
    """
    sources, channels = len(network.targets) + residual, mixture.shape[1]
    if iterations > 0 and (sources < 2 or channels > 2):
        raise ValueError(
            f"expected two or more sources and at most two channels, got {sources} and {channels}; "
            "take residual=True, or iterations=0"
        )
    stft = network.stft(centred=True)
    spectra = stft(mixture)
    magnitudes = network(spectra.abs(), features)
    filtered = [_filter(*item, iterations, residual) for item in zip(magnitudes, spectra, strict=True)]
    return stft.inverse(torch.stack(filtered), mixture.shape[-1]).to(mixture.dtype)


def _filter(magnitudes: Tensor, spectrum: Tensor, iterations: int, residual: bool) -> Tensor:
    """Filter one mixture.

    Args:
        magnitudes: ``(targets, channels, bins, frames)``.
        spectrum: Of the mixture, ``(channels, bins, frames)``.
        iterations: Of expectation-maximisation.
        residual: Whether to add a source.

    Returns:
        ``(sources, channels, bins, frames)``, complex, double precision.
    """
    from demucs.wiener import wiener

    targets = magnitudes.double().permute(3, 2, 1, 0)  # (frames, bins, channels, targets)
    mixture = torch.view_as_real(spectrum.to(torch.complex128)).permute(2, 1, 0, 3)  # (frames, bins, channels, 2)
    windows = zip(torch.split(targets, _WIENER_FRAMES), torch.split(mixture, _WIENER_FRAMES), strict=True)
    parts = [wiener(*window, iterations, residual=residual) for window in windows]
    estimates = torch.cat(parts).permute(4, 2, 1, 0, 3)  # from (frames, bins, channels, 2, sources)
    return torch.view_as_complex(estimates.contiguous())


def _pieces(blocks: Iterable[Tensor], longest: int) -> Iterator[Tensor]:
    """Check blocks and cut long ones, so that estimates leave as soon as they are finished.

    Raises:
        DataError: If there is nothing, or something that is not audio of equal channels.
    """
    channels, samples = None, 0
    for block in blocks:
        channels = block.shape[0] if channels is None else channels
        if block.ndim != 2 or block.shape[0] != channels:
            raise DataError(f"expected blocks of {channels} channels, got one of shape {tuple(block.shape)}")
        if not torch.isfinite(block).all():
            raise DataError(
                f"expected finite samples, found NaN or infinity after sample {samples}; mend the recording"
            )
        samples += block.shape[1]
        yield from (block[:, start : start + longest] for start in range(0, block.shape[1], longest))
    if samples == 0:
        raise DataError("expected a recording with samples, found an empty one")


def _take_mean(finished: list[list[Tensor]]) -> Tensor:
    """Average what all runs have finished; what only some have stays in their lists."""
    joined = [torch.cat(parts, dim=-1) for parts in finished]
    length = min(part.shape[-1] for part in joined)
    for parts, part in zip(finished, joined, strict=True):
        parts[:] = [part[..., length:].clone()] if part.shape[-1] > length else []
    return torch.stack([part[..., :length] for part in joined]).mean(dim=0)


class _Run:
    """One run over a recording that arrives piece by piece; keeps about two chunks, however long the recording.

    Positions are in samples from the start of the recording, zeros before it included.
    """

    def __init__(self, separator: PlacedSeparator, chunking: Chunking, lead: int, device: torch.device | str) -> None:
        self.separator = separator
        self.lead = lead
        self.chunk = chunking.samples
        self.stride = chunking.stride
        self.device = device
        ramp = torch.arange(1, self.chunk + 1, dtype=torch.float32)
        self.window = torch.minimum(ramp, ramp.flip(0)) / ((self.chunk + 1) // 2)
        self.heard = torch.zeros(1, lead)  # one channel stands for as many as there will be
        self.origin = 0  # position of the first sample of what was heard and is still held
        self.start = 0  # position of the next chunk
        self.sum = torch.zeros(1, 1, self.chunk)  # of weighted estimates, from the next chunk's start
        self.weight = torch.zeros(self.chunk)  # of all that went into the sum
        self.skip = lead  # how much of what will be finished belongs to the zeros before the recording

    @property
    def end(self) -> int:
        """Position after the last sample that has arrived."""
        return self.origin + self.heard.shape[1]

    def push(self, piece: Tensor) -> Iterator[Tensor]:
        """Take ``(channels, samples)``; yield what is finished, ``(sources, channels, samples)``."""
        self.heard = torch.cat([self.heard.expand(len(piece), -1), piece], dim=1)
        while self.start + self.chunk <= self.end:
            yield from self._add(self._estimate(self.start), self.stride)

    def finish(self) -> Iterator[Tensor]:
        """Yield the rest. A last, short chunk is centred in a full one: context before it, zeros after it."""
        while self.start < self.end:
            length = self.end - self.start
            margin = (self.chunk - length) // 2
            estimate = self._estimate(self.start - margin)[..., margin : margin + length]
            yield from self._add(estimate, min(self.stride, length))

    def _estimate(self, start: int) -> Tensor:
        """Separate the chunk at a position, zeros where nothing was heard: ``(sources, channels, chunk)``.

        Raises:
            ValueError: If the separator gives another shape.
        """
        first = start - self.origin
        held = self.heard[:, max(0, first) : first + self.chunk]
        missing = max(0, -first)
        mixture = F.pad(held, (missing, self.chunk - missing - held.shape[1]))[None]
        with torch.no_grad():
            estimates = self.separator(mixture.to(self.device), start - self.lead).to(mixture.device)
        if estimates.ndim != 4 or len(estimates) != 1 or estimates.shape[-1] != mixture.shape[-1]:
            wanted = f"(1, sources, {mixture.shape[1]}, {mixture.shape[2]})"
            raise ValueError(f"expected estimates of shape {wanted} from the separator, got {tuple(estimates.shape)}")
        return estimates[0]

    def _add(self, estimate: Tensor, step: int) -> Iterator[Tensor]:
        """Add a chunk's estimate to the sum and move on by ``step``; what lies before is then finished."""
        length = estimate.shape[-1]
        self.sum = self.sum + F.pad(self.window[:length] * estimate, (0, self.chunk - length))
        self.weight[:length] += self.window[:length]
        finished = self.sum[..., :step] / self.weight[:step]
        self.sum = F.pad(self.sum[..., step:], (0, step))
        self.weight = F.pad(self.weight[step:], (0, step))
        self._move(step)
        skipped = min(self.skip, step)
        self.skip -= skipped
        if skipped < step:
            yield finished[..., skipped:]

    def _move(self, step: int) -> None:
        """Go to the next chunk and forget what not even a last, short one would have as its context."""
        self.start += step
        stale = max(0, self.start - self.chunk // 2 - self.origin)
        self.heard = self.heard[:, stale:].clone()  # a view would keep all that was ever heard
        self.origin += stale
