"""Geometry of the report's drawings, in the units of an SVG viewBox; the templates draw it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ArmStyle", "Bar", "Chart", "Line", "PianoRoll", "Sample", "arm_styles", "bar", "chart", "piano_roll"]

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 40
DODGE = 3.0
"""Arms are drawn this far beside each other, so that their error bars do not hide one another."""
COLOURS = 6
"""Number of colours in the style sheet."""
BAR_WIDTH, BAR_HEIGHT = 165, 18
ROLL_HEIGHT = 70


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn everywhere: a colour for the extractor, a dash pattern for its controls."""

    colour: str
    dash: str


@dataclass(frozen=True)
class Sample:
    """A point of a curve, with its interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Mark:
    """A drawn sample: its place, its interval's ends, and what a pointer over it shows."""

    x: float
    y: float
    low: float | None
    high: float | None
    title: str


@dataclass(frozen=True)
class Line:
    """A drawn curve."""

    arm: str
    style: ArmStyle
    path: str
    marks: list[Mark]


@dataclass(frozen=True)
class Tick:
    """A label on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A drawn line chart."""

    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM
    top: int = TOP


@dataclass(frozen=True)
class Bar:
    """A drawn boost with its interval."""

    zero: float
    value: float
    low: float | None
    high: float | None
    width: int = BAR_WIDTH
    height: int = BAR_HEIGHT


@dataclass(frozen=True)
class PianoRoll:
    """Drawn notes: ``(x, y, width, height)`` of those that were played and of those that are shown."""

    reference: list[tuple[float, float, float, float]]
    notes: list[tuple[float, float, float, float]]
    description: str
    width: int = WIDTH
    height: int = ROLL_HEIGHT


def arm_styles(arms: Sequence[str], baseline: str) -> dict[str, ArmStyle]:
    """Give every arm its colour and dash: an extractor and its controls share the colour, controls are dashed."""
    families = list(dict.fromkeys(arm.split("@")[0] for arm in arms if arm != baseline))
    controls = sorted({arm.partition("@")[2] for arm in arms} - {""})
    dashes = {"": "", **{control: ("6 3", "2 3", "9 3 2 3")[index % 3] for index, control in enumerate(controls)}}
    styles = {baseline: ArmStyle("baseline", "")}
    for arm in arms:
        family, _, control = arm.partition("@")
        if arm != baseline:
            styles[arm] = ArmStyle(f"c{families.index(family) % COLOURS}", dashes[control])
    return styles


def chart(
    title: str,
    x_label: str,
    y_label: str,
    curves: Mapping[str, Sequence[Sample]],
    styles: Mapping[str, ArmStyle],
    per_cent: bool = False,
) -> Chart:
    """Draw one line for each arm.

    Args:
        title: Of the chart.
        x_label: Of its horizontal axis.
        y_label: Of its vertical axis.
        curves: Samples of each arm, ascending in x.
        styles: Of each arm.
        per_cent: Whether x is a share, drawn on a logarithmic axis with a tick for every value, in per cent.
    """
    samples = [sample for curve in curves.values() for sample in curve]
    xs = sorted({sample.x for sample in samples})
    ys = [y for sample in samples for y in (sample.y, sample.low, sample.high) if y is not None]
    y_values = nice_ticks(min(ys), max(ys))
    warp = math.log10 if per_cent else float
    x_values = xs if per_cent else nice_ticks(min(xs), max(xs))
    x_ends = [*xs] if per_cent else [*xs, *x_values]
    to_x = _Scale(warp(min(x_ends)), warp(max(x_ends)), LEFT + 12, WIDTH - RIGHT - 12)
    to_y = _Scale(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    lines = []
    for index, (arm, curve) in enumerate(curves.items()):
        shift = (index - (len(curves) - 1) / 2) * DODGE if per_cent else 0.0
        marks = [
            Mark(
                round(to_x(warp(sample.x)) + shift, 1),
                round(to_y(sample.y), 1),
                None if sample.low is None else round(to_y(sample.low), 1),
                None if sample.high is None else round(to_y(sample.high), 1),
                f"{arm}, {_tick_label(sample.x, per_cent)}: {sample.y:.3f}",
            )
            for sample in curve
        ]
        path = " ".join(f"{'ML'[place > 0]}{mark.x},{mark.y}" for place, mark in enumerate(marks))
        lines.append(Line(arm, styles[arm], path, marks))
    ends = "; ".join(f"{arm} ends at {curve[-1].y:.3f}" for arm, curve in curves.items() if curve)
    return Chart(
        title,
        f"{y_label} against {x_label}: {ends}.",
        x_label,
        y_label,
        _spaced([Tick(round(to_x(warp(x)), 1), _tick_label(x, per_cent)) for x in x_values]),
        [Tick(round(to_y(y), 1), f"{y:g}") for y in y_values],
        lines,
    )


def bar(value: float, low: float | None, high: float | None, extent: float) -> Bar:
    """Draw a boost and its interval on a scale from ``-extent`` to ``extent``."""
    place = _Scale(-extent or -1.0, extent or 1.0, 4, BAR_WIDTH - 4)
    ends = [None if end is None else round(place(end), 1) for end in (low, high)]
    return Bar(round(place(0.0), 1), round(place(value), 1), ends[0], ends[1])


def piano_roll(
    reference: Sequence[Sequence[float]], notes: Sequence[Sequence[float]], seconds: float, pitches: tuple[int, int]
) -> PianoRoll:
    """Draw notes ``[onset, offset, pitch, velocity]`` over those of the reference.

    Args:
        reference: What was played.
        notes: What is shown.
        seconds: Right end of the time axis.
        pitches: Lowest and highest MIDI pitch.
    """
    row = ROLL_HEIGHT / (pitches[1] - pitches[0] + 1)
    to_x = _Scale(0.0, seconds, 0, WIDTH)

    def draw(note: Sequence[float]) -> tuple[float, float, float, float]:
        x = to_x(note[0])
        width = max(1.5, to_x(note[1]) - x)
        return round(x, 1), round((pitches[1] - note[2]) * row, 1), round(width, 1), round(max(1.5, row), 1)

    description = f"Piano roll of {len(notes)} notes; the reference has {len(reference)}."
    return PianoRoll([draw(note) for note in reference], [draw(note) for note in notes], description)


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return round values from at most ``low`` to at least ``high``, in steps of 1, 2 or 5 times a power of ten."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    """A linear map; a range without width lands in the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def _tick_label(value: float, per_cent: bool) -> str:
    return f"{100 * value:g} %" if per_cent else f"{value:g}"


def _spaced(ticks: list[Tick]) -> list[Tick]:
    """Leave out labels that would run into the one before."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.place - kept[-1].place >= 4 + 7 * len(tick.label):
            kept.append(tick)
    return kept
