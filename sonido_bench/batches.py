"""The typed dictionaries in which datamodules and tasks meet.

Audio is ``(batch, channels, samples)`` float32 in [-1, 1]. A batch holds either ``audio``, from which the task
extracts features itself (online), or ``front_end`` and ``features`` as read from the cache (cached), never both.
Cached tensors have their stream's own frame rate, shape ``(batch, frames, dim)``, float32.
"""

from typing import NotRequired, TypedDict

from torch import Tensor

__all__ = ["AudioBatch", "NoteBatch", "StemBatch", "TargetBatch"]


class AudioBatch(TypedDict):
    """What every batch has."""

    clip: list[str]
    """Names of the clips."""
    seconds: float
    """Length of every clip of the batch, in seconds."""
    sample_rate: NotRequired[int]
    """Of ``audio``, in Hz."""
    audio: NotRequired[Tensor]
    front_end: NotRequired[dict[str, Tensor]]
    """Streams of the task's own spectrogram."""
    features: NotRequired[dict[str, Tensor]]
    """Streams of the frozen model; absent in the baseline."""


class TargetBatch(AudioBatch):
    """A batch with one target per clip (tagging)."""

    target: Tensor
    """Labels: ``(batch, classes)`` float 0/1; one class: ``(batch,)`` long; values: ``(batch, outputs)`` float."""


class NoteBatch(AudioBatch):
    """A batch with the notes of each clip (transcription)."""

    notes: list[Tensor]
    """Per clip ``(notes, 4)`` float32: onset and offset in seconds from the clip's start, MIDI pitch, velocity 1..127;
    sorted by onset, then pitch. No two notes of a pitch overlap."""


class StemBatch(AudioBatch):
    """Mixtures with their stems (separation, mixing), ``sample_rate`` always given.

    ``audio`` is what the foundation model hears when it runs online: the mixture in separation, the mono downmix of
    the stems in mixing. Cached ``features`` take its place, while ``stems`` and ``mixture`` are there in either case.
    """

    track: list[str]
    """Names of the tracks that the clips are parts of: scores are gathered by them."""
    start: list[float]
    """Where each clip starts in its track, in seconds."""
    stem_names: tuple[str, ...]
    stems: Tensor
    """``(batch, stems, channels, samples)``: the target in separation, the input in mixing."""
    mixture: Tensor
    """``(batch, channels, samples)``: the input in separation, the target in mixing."""
    augmented: bool
    """Whether the audio was changed or drawn at random: then no cached features fit it."""
