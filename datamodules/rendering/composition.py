"""A composer with a seed: who plays which notes, and in which key, tempo and metre."""

from dataclasses import dataclass, replace

import numpy as np

from sonido_bench.datamodules.rendering.figures import FIGURES, BeatNote, Passage
from sonido_bench.datamodules.rendering.harmony import MODES, Mode, chord_form, key_label, spans
from sonido_bench.datamodules.rendering.programs import DRUMS, ROLE_FAMILIES, TAGS, Split, octave, programs

__all__ = ["Composition", "Note", "Part", "compose"]

TEMPO_RANGE = (60.0, 180.0)  # beats per minute
PARTS_RANGE = (3, 6)
_LATEST_START = 0.4  # seconds of silence before the first beat, at most
_TIMING_SPREAD = 0.006  # seconds, standard deviation of a player's timing; cut at three times this
_VELOCITY_SPREAD = 5.0
_SHORTEST_NOTE = 0.03  # seconds


@dataclass(frozen=True)
class Note:
    """A note: onset and offset in seconds from the clip's start, MIDI pitch, velocity 1..127."""

    onset: float
    offset: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """What one player plays.

    Attributes:
        role: ``melody``, ``chords``, ``bass``, ``drums``, ``pad`` or ``counter``.
        program: General MIDI program from 0; for drums the number of the kit.
        family: The instrument tag.
        is_drum: Whether pitches are drums.
        notes: Sorted by onset, then pitch; no two notes of a pitch overlap.
    """

    role: str
    program: int
    family: str
    is_drum: bool
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Composition:
    """A clip's music: tonic 0..11 (0 is C), mode, tempo in beats per minute, beats of a bar, and the parts."""

    tonic: int
    mode: Mode
    tempo: float
    metre: int
    parts: tuple[Part, ...]

    @property
    def key(self) -> str:
        """The key's name, for example ``F# minor``."""
        return key_label(self.tonic, self.mode)

    @property
    def families(self) -> tuple[str, ...]:
        """Tags of the instruments that play, in the order of ``TAGS``."""
        heard = {part.family for part in self.parts}
        return tuple(tag for tag in TAGS if tag in heard)


def compose(seed: int, split: Split, seconds: float) -> Composition:
    """Compose the music of one clip.

    It starts on any chord of its form within the first half second, and plays to the clip's end.

    Args:
        seed: Decides everything; 24 seeds in a row have the 24 keys, so that every split has each as often.
        split: Decides which programs may be heard.
        seconds: Length of the clip.
    """
    rng = np.random.default_rng(seed)
    tonic, mode = seed % 12, MODES[seed // 12 % 2]
    tempo = round(float(rng.uniform(*TEMPO_RANGE)), 1)
    metre = int(rng.choice([4, 4, 3]))
    passage = _passage(tonic, mode, metre, tempo, seconds, rng)
    start = float(rng.uniform(0.02, _LATEST_START))
    parts = []
    for role, family in _players(rng):
        program = int(rng.choice(programs(family, split)))
        shift = 0 if family == DRUMS else 12 * octave(program)
        beats = FIGURES[role](passage, rng)
        notes = _perform(beats, passage, start, seconds, rng)
        notes = [replace(note, pitch=note.pitch + shift) for note in notes]
        parts.append(Part(role, program, family, family == DRUMS, tuple(notes)))
    return Composition(tonic, mode, tempo, metre, tuple(part for part in parts if part.notes))


def _passage(tonic: int, mode: Mode, metre: int, tempo: float, seconds: float, rng: np.random.Generator) -> Passage:
    form = chord_form(mode, rng)
    endless = spans(form, metre, tempo, first=int(rng.integers(len(form))))
    heard = [next(endless)]
    while (heard[-1].start - heard[0].start) * 60 / tempo < seconds:
        heard.append(next(endless))
    return Passage(tonic, mode, metre, tempo, tuple(heard))


def _players(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw three to six roles, one of them harmonic, and for each a family of its own."""
    harmony = str(rng.choice(["chords", "chords", "pad"]))
    others = [role for role in ROLE_FAMILIES if role != harmony]
    size = int(rng.integers(PARTS_RANGE[0], PARTS_RANGE[1] + 1)) - 1
    chosen = {harmony, *rng.choice(others, size=size, replace=False)}
    players: list[tuple[str, str]] = []
    for role in (role for role in ROLE_FAMILIES if role in chosen):  # a fixed order, whatever the draw's
        taken = {family for _, family in players}
        players.append((role, str(rng.choice([name for name in ROLE_FAMILIES[role] if name not in taken]))))
    return players


def _perform(
    beats: list[BeatNote], passage: Passage, start: float, seconds: float, rng: np.random.Generator
) -> list[Note]:
    """Turn beats into seconds, with a player's small deviations, and cut the notes to the clip."""
    first, beat_seconds = passage.spans[0].start, 60 / passage.tempo
    notes = []
    for note in sorted(beats, key=lambda note: (note.beat, note.pitch)):
        deviation = _TIMING_SPREAD * float(np.clip(rng.standard_normal(), -3, 3))
        onset = max(start + (note.beat - first) * beat_seconds + deviation, 0.0)
        offset = min(onset + note.beats * beat_seconds, seconds)
        velocity = int(np.clip(note.velocity + _VELOCITY_SPREAD * rng.standard_normal(), 20, 127))
        if offset - onset >= _SHORTEST_NOTE:
            notes.append(Note(round(onset, 5), round(offset, 5), note.pitch, velocity))
    return _without_overlaps(notes)


def _without_overlaps(notes: list[Note]) -> list[Note]:
    """Cut each note where its pitch sounds again, so that a key is never pressed twice."""
    by_onset = sorted(notes, key=lambda note: (note.onset, note.pitch))
    result = []
    next_onset: dict[int, float] = {}
    for note in reversed(by_onset):
        offset = min(note.offset, next_onset.get(note.pitch, note.offset))
        if offset - note.onset >= _SHORTEST_NOTE:
            result.append(replace(note, offset=offset))
            next_onset[note.pitch] = note.onset
    return result[::-1]
