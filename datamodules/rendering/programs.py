"""The instruments: General MIDI programs in families, some heard in the test split alone, some in pre-training alone.

Left out are programs that in TimGM6mb.sf2 sound another pitch than the key pressed, or none in part of the range
(measured): glockenspiel and tubular bells (9, 14: inharmonic), drawbar organs (16-18: an octave low), harmonica (22:
off key), guitar harmonics (31), contrabass (43), alto and baritone saxophone (65, 67: gaps), whistle (78: off key),
fifths and bass leads (86, 87), and the warm pad (89: half a second of attack).
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["DRUMS", "FAMILIES", "ROLE_FAMILIES", "SPLITS", "TAGS", "Family", "Split", "octave", "programs"]

Split = Literal["train", "validation", "test", "pretrain"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "pretrain")

DRUMS = "drums"
"""Tag of the drum kits, whose programs are numbers of kits."""


@dataclass(frozen=True)
class Family:
    """Programs of one kind, numbered from 0 as in a MIDI file.

    Attributes:
        heard: Programs of every split.
        test_only: Programs that only the test split has besides.
        pretrain_only: Programs that only foundation models hear besides.
    """

    heard: tuple[int, ...]
    test_only: tuple[int, ...]
    pretrain_only: tuple[int, ...] = ()


FAMILIES = {
    "piano": Family((0, 1, 3, 4, 6), (2, 5, 7)),
    "mallet": Family((8, 11, 12, 15), (10, 13), (108,)),
    "organ": Family((19, 20, 21), (23,)),
    "guitar": Family((24, 25, 27, 28, 30), (26, 29), (104, 105, 106, 107)),
    "bass": Family((32, 33, 35, 36, 38), (34, 37, 39)),
    "strings": Family((40, 42, 44, 45, 48, 50), (41, 49, 51), (46, 110)),
    "brass": Family((56, 57, 60, 61, 62), (58, 59, 63)),
    "reed": Family((64, 66, 68, 71), (69, 70), (109, 111)),
    "pipe": Family((72, 73, 75, 76, 79), (74, 77)),
    "synth_lead": Family((80, 81, 82, 84), (83, 85)),
    "synth_pad": Family((88, 90, 91, 92, 95), (93, 94), (52, 53, 54)),
    DRUMS: Family((0, 8, 16, 24, 32), (25, 40, 48)),
}

TAGS = tuple(FAMILIES)
"""The twelve instrument tags, in the order of a target's columns."""

ROLE_FAMILIES = {
    "melody": ("piano", "mallet", "organ", "guitar", "strings", "brass", "reed", "pipe", "synth_lead"),
    "chords": ("piano", "mallet", "organ", "guitar", "strings"),
    "bass": ("bass",),
    "drums": (DRUMS,),
    "pad": ("organ", "strings", "brass", "synth_pad", "synth_pad", "synth_pad"),
    "counter": ("piano", "mallet", "guitar", "strings", "brass", "reed", "pipe", "synth_lead"),
}
"""Families that may play a role; one named more often is drawn more often."""

_OCTAVES = {8: 1, 10: 1, 13: 1, 72: 1, 77: 1, 21: -1, 42: -1, 57: -1, 58: -1, 60: -1, 70: -1}


def programs(family: str, split: Split) -> tuple[int, ...]:
    """Return the programs of a family that may be heard in a split."""
    own = FAMILIES[family]
    return own.heard + {"test": own.test_only, "pretrain": own.pretrain_only}.get(split, ())


def octave(program: int) -> int:
    """Return by how many octaves a program plays above (or below) the range of its role, as its instrument does."""
    return _OCTAVES.get(program, 0)
