"""Notes to sound: a sampled soundfont, played sample-accurately."""

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np

from sonido_bench.datamodules.rendering.composition import Part
from sonido_bench.errors import DataError
from sonido_bench.files import sha256_file

__all__ = ["SAMPLE_RATE", "find_soundfont", "play", "soundfont_sha256"]

SAMPLE_RATE = 44100
_GAIN_DB = -12.0  # six voices at full velocity stay below full scale
_CHANNEL = 0


def find_soundfont(path: str | None) -> Path:
    """Return the soundfont to play: the one given, or TimGM6mb.sf2 out of pretty_midi's wheel.

    Raises:
        DataError: If there is no such file.
    """
    if path is None:
        package = importlib.util.find_spec("pretty_midi")
        if package is None or package.origin is None:
            raise DataError("no soundfont: pretty_midi is not installed; `pip install pretty_midi` or give a soundfont")
        found = Path(package.origin).with_name("TimGM6mb.sf2")
    else:
        found = Path(path)
    if not found.is_file():
        raise DataError(f"no soundfont at {found}; give the path of an .sf2 file")
    return found


@lru_cache
def soundfont_sha256(path: str | None) -> str:
    """Return the SHA-256 of the soundfont that ``path`` means."""
    return sha256_file(find_soundfont(path))


def play(part: Part, seconds: float, soundfont: Path) -> np.ndarray:
    """Play one part alone.

    Each note starts on the sample nearest to its onset; releases ring on after offsets. A fresh synthesiser plays
    each part, as one that has played before does not repeat itself bit for bit.

    Args:
        part: What to play.
        seconds: Length of the result.
        soundfont: An .sf2 file with General MIDI programs.

    Returns:
        Stereo float32, shape ``(2, samples)``, at ``SAMPLE_RATE``.

    Raises:
        DataError: If the synthesiser is missing, or the soundfont cannot be read or lacks the program.
    """
    synth = _synthesiser(part, soundfont)
    samples = round(seconds * SAMPLE_RATE)
    audio = np.zeros((samples, 2), np.float32)
    buffer = memoryview(audio).cast("B")  # type: ignore[arg-type]
    frame_bytes = audio.itemsize * 2
    position = 0
    for time, pitch, velocity in _events(part, samples):
        if time > position:
            synth.generate(time - position, buffer[position * frame_bytes : time * frame_bytes])
            position = time
        if velocity:
            synth.noteon(_CHANNEL, pitch, velocity)
        else:
            synth.noteoff(_CHANNEL, pitch)
    if position < samples:
        synth.generate(samples - position, buffer[position * frame_bytes :])
    return np.ascontiguousarray(audio.T)


def _events(part: Part, samples: int) -> list[tuple[int, int, int]]:
    """Return (sample, pitch, velocity) in order; velocity 0 releases, and comes before a stroke at the same sample."""
    events = []
    for note in part.notes:
        events.append((round(note.onset * SAMPLE_RATE), note.pitch, note.velocity))
        events.append((round(note.offset * SAMPLE_RATE), note.pitch, 0))
    return sorted(
        (event for event in events if event[0] < samples), key=lambda event: (event[0], event[2] > 0, event[1])
    )


def _synthesiser(part: Part, soundfont: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    try:
        import tinysoundfont  # lazy: an optional package
    except ImportError as error:
        raise DataError(
            "rendering needs the synthesiser tinysoundfont; install it with `pip install --no-deps tinysoundfont`"
        ) from error
    synth = tinysoundfont.Synth(gain=_GAIN_DB, samplerate=SAMPLE_RATE)
    try:
        font = synth.sfload(str(soundfont))
        synth.program_select(_CHANNEL, font, 0, part.program, part.is_drum)
    except Exception as error:  # the binding raises its own types for bad files and missing programs
        raise DataError(
            f"cannot play program {part.program} of {soundfont}: {error}; give another soundfont"
        ) from error
    return synth
