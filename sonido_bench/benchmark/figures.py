"""The leaderboard as one figure, for a README or a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sonido_bench.benchmark.leaderboard import Row, Verdict
from sonido_bench.benchmark.tables import format_fraction, metric_label, setting_label
from sonido_bench.errors import ResultError
from sonido_bench.files import atomic_path

__all__ = ["leaderboard_figure"]

PANELS = 5
"""Beside each other, at most."""
COLOURS: dict[Verdict, str] = {"boosts": "#0072B2", "hurts": "#D55E00"}
"""Safe for the colour-blind; all other verdicts are grey."""

Names = tuple[tuple[str, float], ...]
"""Arms and fractions, from top to bottom."""


def leaderboard_figure(rows: Sequence[Row], path: Path) -> None:
    """Draw boosts and their 95 % intervals as a forest plot: one panel for each task and metric.

    Panels that have the same arms and fractions stand beside each other and share their labels.

    Args:
        rows: Of a leaderboard, at least one.
        path: Where to; its suffix decides the format (``.svg``, ``.png``, ``.pdf``).

    Raises:
        ResultError: If there is no row.
    """
    from matplotlib.figure import Figure  # here: half a second, and nothing else needs it

    lines = _lines_of_panels(rows)
    if not lines:
        raise ResultError("no row to draw: no arm has a run beside its baseline yet")
    columns, heights = max(len(panels) for _, panels in lines), [0.8 + 0.26 * len(names) for names, _ in lines]
    figure = Figure(figsize=(2.2 + 2.6 * columns, sum(heights)), layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False, sharey="row", height_ratios=heights)
    for axes, (names, panels) in zip(grid, lines, strict=True):
        for axis, (title, group) in zip(axes, panels.items(), strict=False):
            _draw_panel(axis, group, names)
            axis.set_title(title, fontsize=10, parse_math=False)
        labels = [f"{arm}, {format_fraction(fraction)}" for arm, fraction in names]
        axes[0].set_yticks(range(len(names)), labels, fontsize=8, parse_math=False)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
    figure.supxlabel("boost over the same network without features, 95 % interval", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _lines_of_panels(rows: Sequence[Row]) -> list[tuple[Names, dict[str, list[Row]]]]:
    """Return what stands beside each other: arms and fractions, and the rows of each panel by its title."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(f"{setting_label(row, rows)}\n{metric_label(row)}", []).append(row)
    grids: dict[Names, list[str]] = {}
    for title, group in panels.items():
        grids.setdefault(tuple(sorted((row.arm, row.fraction) for row in group)), []).append(title)
    return [
        (names, {title: panels[title] for title in titles[start : start + PANELS]})
        for names, titles in grids.items()
        for start in range(0, len(titles), PANELS)
    ]


def _draw_panel(axis: Any, rows: Sequence[Row], names: Sequence[tuple[str, float]]) -> None:
    axis.axvline(0, color="black", linewidth=0.8)
    for row in rows:
        place, colour = names.index((row.arm, row.fraction)), COLOURS.get(row.verdict, "#777777")
        if row.ci_low is not None:
            axis.plot([row.ci_low, row.ci_high], [place, place], color=colour, linewidth=1.6)
        axis.plot(row.boost, place, "o", color=colour, markersize=4)
    axis.tick_params(labelsize=8)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
