"""What each part plays over a chord progression, in beats."""

from dataclasses import dataclass

import numpy as np

from sonido_bench.datamodules.rendering.harmony import Mode, Span

__all__ = ["FIGURES", "BeatNote", "Passage"]


@dataclass(frozen=True)
class BeatNote:
    """A note in beats from the start of the form; ``pitch`` in MIDI numbers, ``velocity`` 1..127."""

    beat: float
    beats: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Passage:
    """The chords that a clip hears.

    Attributes:
        tonic: 0 is C.
        mode: Major or minor.
        metre: Beats of a bar.
        tempo: In beats per minute.
        spans: The chords in order, at least one.
    """

    tonic: int
    mode: Mode
    metre: int
    tempo: float
    spans: tuple[Span, ...]

    def ladder(self, steps: tuple[int, ...], low: int, high: int) -> np.ndarray:
        """Return the pitches in low..high that lie ``steps`` semitones above the tonic, ascending."""
        pitches = np.arange(low, high + 1)
        return pitches[np.isin((pitches - self.tonic) % 12, steps)]


def _nearest(ladder: np.ndarray, pitch: float) -> int:
    return int(np.argmin(np.abs(ladder - pitch)))


def _tune(
    passage: Passage,
    rng: np.random.Generator,
    cells: list[tuple[float, ...]],
    low: int,
    high: int,
    rest: float,
) -> list[BeatNote]:
    """Walk along the scale in the rhythm of ``cells``, on a note of the chord at each change of chord."""
    held = rng.choice([0.6, 0.95])
    loud = int(rng.integers(78, 100))
    pitch = float(rng.uniform(low + 4, high - 4))
    notes = []
    for span in passage.spans:
        beat = 0.0
        while beat < span.beats:
            for length in cells[rng.integers(len(cells))]:
                if beat >= span.beats:
                    break
                strong = beat == 0
                steps = span.chord.intervals if strong else span.chord.scale(passage.mode)
                ladder = passage.ladder(steps, low, high)
                move = 0 if strong else int(rng.choice([-2, -1, -1, 1, 1, 2]))
                pitch = float(ladder[np.clip(_nearest(ladder, pitch) + move, 0, len(ladder) - 1)])
                length = min(length, span.beats - beat)
                if strong or rng.random() >= rest:
                    accent = 8 if strong else 0
                    notes.append(BeatNote(span.start + beat, length * held, int(pitch), loud + accent))
                beat += length
    return notes


def melody(passage: Passage, rng: np.random.Generator) -> list[BeatNote]:
    """Return a tune of two rhythmic cells that come again and again."""
    cells: list[tuple[float, ...]] = [(1.0,), (0.5, 0.5), (1.5, 0.5), (0.75, 0.25), (2.0,), (1.0, 0.5, 0.5)]
    if passage.tempo < 100:
        cells += [(0.5, 0.25, 0.25), (0.25, 0.25, 0.5)]
    chosen = [cells[index] for index in rng.choice(len(cells), size=2, replace=False)]
    low = int(rng.integers(60, 66))
    return _tune(passage, rng, chosen, low, low + 19, rest=0.12)


def counter(passage: Passage, rng: np.random.Generator) -> list[BeatNote]:
    """Return a slower second tune below the first."""
    cells: list[tuple[float, ...]] = [(2.0,), (1.0,), (1.0, 2.0), (3.0, 1.0)]
    chosen = [cells[index] for index in rng.choice(len(cells), size=2, replace=False)]
    low = int(rng.integers(50, 56))
    return _tune(passage, rng, chosen, low, low + 15, rest=0.2)


def _voicings(passage: Passage, centre: float) -> list[list[int]]:
    """Return the notes of each chord, in the inversion that moves least from the chord before it."""
    voicings = []
    for span in passage.spans:
        pitches = [int(passage.ladder((step,), int(centre) - 6, int(centre) + 5)[0]) for step in span.chord.intervals]
        candidates = [sorted(pitches)]
        candidates.append(sorted([*candidates[0][1:], candidates[0][0] + 12]))
        candidates.append(sorted([*candidates[0][:-1], candidates[0][-1] - 12]))
        voicings.append(min(candidates, key=lambda voicing: abs(sum(voicing) / len(voicing) - centre)))
        centre = 0.7 * centre + 0.3 * sum(voicings[-1]) / len(voicings[-1])
    return voicings


def chords(passage: Passage, rng: np.random.Generator) -> list[BeatNote]:
    """Return chords: held, repeated, off the beat or broken."""
    style = rng.choice(["held", "repeated", "off_beat", "broken"])
    loud = int(rng.integers(64, 88))
    held = float(rng.choice([0.5, 0.9]))
    notes = []
    for span, voicing in zip(passage.spans, _voicings(passage, float(rng.uniform(58, 66))), strict=True):
        if style == "held":
            notes += [BeatNote(span.start, span.beats * 0.97, pitch, loud) for pitch in voicing]
        elif style == "broken":
            figure = [*voicing, *voicing[-2:0:-1]]
            notes += [
                BeatNote(span.start + step / 2, 0.5 * held, figure[step % len(figure)], loud)
                for step in range(2 * span.beats)
            ]
        else:
            late = 0.5 if style == "off_beat" else 0.0
            notes += [
                BeatNote(span.start + beat + late, (1 - late) * held, pitch, loud)
                for beat in range(span.beats)
                for pitch in voicing
            ]
    return notes


def pad(passage: Passage, rng: np.random.Generator) -> list[BeatNote]:
    """Return held chords that overlap a little."""
    loud = int(rng.integers(60, 84))
    voicings = _voicings(passage, float(rng.uniform(56, 68)))
    return [
        BeatNote(span.start, span.beats * 1.02, pitch, loud)
        for span, voicing in zip(passage.spans, voicings, strict=True)
        for pitch in voicing
    ]


def bass(passage: Passage, rng: np.random.Generator) -> list[BeatNote]:
    """Return a bass line: roots, roots and fifths, quavers, or a walk along the scale."""
    style = rng.choice(["roots", "fifths", "quavers", "walking"])
    loud = int(rng.integers(76, 100))
    notes = []
    for span in passage.spans:
        root = int(passage.ladder(span.chord.intervals[:1], 29, 40)[0])
        fifth = int(passage.ladder(span.chord.intervals[2:3], root, root + 11)[0])
        if style == "roots":
            notes.append(BeatNote(span.start, span.beats * 0.92, root, loud))
        elif style == "quavers":
            notes += [
                BeatNote(span.start + step / 2, 0.42, root, loud - 8 * (step % 2)) for step in range(2 * span.beats)
            ]
        else:
            scale = passage.ladder(span.chord.scale(passage.mode), root, root + 12)
            line = [root, fifth] * span.beats if style == "fifths" else [root, *(int(p) for p in scale[2:5])]
            notes += [BeatNote(span.start + beat, 0.9, line[beat], loud) for beat in range(span.beats)]
    return notes


# One character a semiquaver; General MIDI keys: 36 kick, 37 side stick, 38 snare, 42 and 46 hi-hat, 51 ride.
_GROOVES: dict[int, tuple[dict[int, str], ...]] = {
    4: (
        {36: "x.......x.x.....", 38: "....x.......x...", 42: "x.x.x.x.x.x.x.x."},
        {36: "x...x...x...x...", 38: "....x.......x...", 46: "..x...x...x...x."},
        {36: "x.........x.....", 38: "........x.......", 42: "x.x.x.x.x.x.x.xx"},
        {36: "x......x..x.....", 37: "....x.......x..x", 51: "x...x.x.x...x.x."},
        {36: "x.x.....x.......", 38: "....x..x....x...", 42: "xxxxxxxxxxxxxxxx"},
    ),
    3: (
        {36: "x...........", 38: "....x...x...", 42: "x...x...x..."},
        {36: "x.....x.....", 37: "........x...", 51: "x...x.x.x..."},
        {36: "x.........x.", 38: "......x.....", 42: "x.x.x.x.x.x."},
    ),
}


def drums(passage: Passage, rng: np.random.Generator) -> list[BeatNote]:
    """Return a groove that comes again every bar; its first stroke falls on the first chord's beat."""
    grooves = _GROOVES[passage.metre]
    groove = grooves[rng.integers(len(grooves))]
    loud = int(rng.integers(80, 104))
    first, last = passage.spans[0].start, passage.spans[-1].start + passage.spans[-1].beats
    notes = []
    for bar in range(first // passage.metre, last // passage.metre + 1):
        for pitch, strokes in groove.items():
            for step, stroke in enumerate(strokes):
                beat = bar * passage.metre + step / 4
                if stroke == "x" and first <= beat < last:
                    notes.append(BeatNote(beat, 0.2, pitch, loud if step % 4 == 0 else loud - 14))
    return notes


FIGURES = {"melody": melody, "chords": chords, "bass": bass, "drums": drums, "pad": pad, "counter": counter}
"""What plays each role."""
