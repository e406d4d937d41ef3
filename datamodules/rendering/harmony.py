"""Keys, chords and progressions that leave no doubt about the key."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["CHORDS", "KEYS", "MODES", "PHRASES", "TONICS", "Chord", "Mode", "Span", "chord_form", "key_label", "spans"]

Mode = Literal["major", "minor"]
MODES: tuple[Mode, Mode] = ("major", "minor")
TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in MODES for tonic in TONICS)
"""The 24 keys, as mir_eval.key writes them."""

MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)
NATURAL_MINOR = (0, 2, 3, 5, 7, 8, 10)
HARMONIC_MINOR = (0, 2, 3, 5, 7, 8, 11)

_SHAPES = {"major": (0, 4, 7), "minor": (0, 3, 7), "diminished": (0, 3, 6), "seventh": (0, 4, 7, 10)}


@dataclass(frozen=True)
class Chord:
    """A chord of a key.

    Attributes:
        root: Semitones above the tonic.
        shape: Which intervals lie above the root.
    """

    root: int
    shape: str

    @property
    def intervals(self) -> tuple[int, ...]:
        """Its notes in semitones above the tonic, root first, in 0..11."""
        return tuple((self.root + step) % 12 for step in _SHAPES[self.shape])

    def scale(self, mode: Mode) -> tuple[int, ...]:
        """Return the scale over this chord in semitones above the tonic: dominants raise the leading note of minor."""
        if mode == "major":
            return MAJOR_SCALE
        return HARMONIC_MINOR if 11 in self.intervals else NATURAL_MINOR


CHORDS = {
    "I": Chord(0, "major"),
    "ii": Chord(2, "minor"),
    "iii": Chord(4, "minor"),
    "IV": Chord(5, "major"),
    "V": Chord(7, "major"),
    "V7": Chord(7, "seventh"),
    "vi": Chord(9, "minor"),
    "vii°": Chord(11, "diminished"),
    "i": Chord(0, "minor"),
    "ii°": Chord(2, "diminished"),
    "III": Chord(3, "major"),
    "iv": Chord(5, "minor"),
    "VI": Chord(8, "major"),
    "VII": Chord(10, "major"),
}

PHRASES: dict[Mode, tuple[tuple[str, str, str, str], ...]] = {
    # Every phrase has the tonic and a dominant: in minor the raised leading note tells it from the relative major.
    "major": (
        ("I", "V", "vi", "IV"),
        ("I", "vi", "IV", "V"),
        ("I", "IV", "V", "I"),
        ("ii", "V7", "I", "vi"),
        ("I", "vi", "ii", "V7"),
        ("IV", "V", "I", "vi"),
        ("I", "iii", "IV", "V"),
        ("vi", "ii", "V7", "I"),
        ("I", "IV", "I", "V7"),
        ("I", "vii°", "I", "IV"),
        ("IV", "I", "V", "I"),
    ),
    "minor": (
        ("i", "iv", "V7", "i"),
        ("i", "VI", "iv", "V"),
        ("i", "VII", "VI", "V"),
        ("i", "ii°", "V7", "i"),
        ("VI", "iv", "V7", "i"),
        ("i", "III", "iv", "V"),
        ("iv", "i", "V7", "i"),
        ("i", "V7", "VI", "iv"),
        ("i", "iv", "i", "V"),
        ("i", "vii°", "i", "V"),
    ),
}

_FORMS = ("AABA", "ABAB", "AABB", "ABAC", "ABCB")

# Beats of the chords of a bar, slowest first: the first whose longest chord lasts no more than this is played.
_LONGEST_CHORD = 1.8  # seconds: a clip of six seconds then has at least four chords, a whole phrase
_HARMONIC_RHYTHMS = {4: ((4,), (2, 2), (1, 1, 1, 1)), 3: ((3,), (2, 1), (1, 1, 1))}


@dataclass(frozen=True)
class Span:
    """A chord in time, in beats from the start of the form."""

    chord: Chord
    start: int
    beats: int


def key_label(tonic: int, mode: Mode) -> str:
    """Return the key's name as mir_eval.key writes it, for example ``F# minor``."""
    return f"{TONICS[tonic]} {mode}"


def chord_form(mode: Mode, rng: np.random.Generator) -> tuple[Chord, ...]:
    """Draw a form of four phrases, such as AABA, and return its sixteen chords."""
    form = _FORMS[rng.integers(len(_FORMS))]
    chosen = rng.choice(len(PHRASES[mode]), size=3, replace=False)
    sections = {letter: PHRASES[mode][index] for letter, index in zip("ABC", chosen, strict=True)}
    return tuple(CHORDS[name] for letter in form for name in sections[letter])


def spans(form: tuple[Chord, ...], metre: int, tempo: float, first: int) -> Iterator[Span]:
    """Yield the chords of a form for ever, round and round, from its chord number ``first``.

    Args:
        form: Chords of the form.
        metre: Beats of a bar, 3 or 4.
        tempo: In beats per minute.
        first: Where to start; a chord within a bar is as good as any.
    """
    rhythms = _HARMONIC_RHYTHMS[metre]
    rhythm = next((beats for beats in rhythms if max(beats) * 60 / tempo <= _LONGEST_CHORD), rhythms[-1])
    number = first
    while True:
        bar, place = divmod(number, len(rhythm))
        yield Span(form[number % len(form)], bar * metre + sum(rhythm[:place]), rhythm[place])
        number += 1
