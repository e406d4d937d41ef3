"""Long audio in overlapping windows, of which the interiors are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

__all__ = ["Window", "kept_from_the_earlier", "split"]


@dataclass(frozen=True)
class Window:
    """A window of a recording, in samples; what lies outside the kept part is context only.

    Attributes:
        start: First sample of the window.
        end: One past its last sample.
        keep_start: First sample whose frames are kept.
        keep_end: One past the last sample whose frames are kept.
    """

    start: int
    end: int
    keep_start: int
    keep_end: int

    def kept_frames(self, hop_length: int) -> slice:
        """Return which of the window's frames are kept, for a hop that divides all positions."""
        return slice((self.keep_start - self.start) // hop_length, (self.keep_end - self.start) // hop_length)


def split(samples: int, window: int, overlap: int, hop: int) -> list[Window]:
    """Cover a recording with windows of equal length whose kept parts tile it.

    Neighbours are cut in the middle of what they share, so that each kept frame has at least ``overlap / 2 - hop``
    samples of context on both sides. The last window is moved back to full length, for models of fixed context.

    Args:
        samples: Length of the recording, a multiple of ``hop``.
        window: Length of a window, a multiple of ``hop``.
        overlap: What neighbours share at least, a multiple of ``hop``, below ``window``.
        hop: All positions are multiples of it, in samples.

    Raises:
        ValueError: If the overlap is not shorter than the window.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"expected an overlap below the window of {window} samples, got {overlap}")
    if samples <= window:
        return [Window(0, samples, 0, samples)]
    starts = [*range(0, samples - window, window - overlap), samples - window]
    cuts = [0, *((left + window + right) // (2 * hop) * hop for left, right in pairwise(starts)), samples]
    kept = pairwise(cuts)
    return [Window(start, start + window, *keep) for start, keep in zip(starts, kept, strict=True)]


def kept_from_the_earlier(windows: Sequence[Window], ahead: int = 0) -> list[Window]:
    """Cut windows for a model that looks back: what two of them share is kept from the earlier, which has read more.

    Args:
        windows: As ``split`` gives them.
        ahead: What the model looks forward all the same, at most what windows share: so much at the end of each window
            but the last is left to the next one.
    """
    cuts = [0, *(window.end - ahead for window in windows[:-1]), windows[-1].end]
    return [
        replace(window, keep_start=start, keep_end=end)
        for window, (start, end) in zip(windows, pairwise(cuts), strict=True)
    ]
