"""Leaderboards and comparisons as a terminal table, Markdown, CSV and JSON: the same rows each time."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sonido_bench.benchmark.compare import ComparedArm, Comparison
from sonido_bench.benchmark.leaderboard import Leaderboard, Row, Verdict

__all__ = [
    "TableFormat",
    "comparison_csv",
    "comparison_json",
    "comparison_markdown",
    "comparison_table",
    "format_count",
    "leaderboard_csv",
    "leaderboard_json",
    "leaderboard_markdown",
    "leaderboard_table",
    "print_comparison",
    "print_leaderboard",
    "setting_label",
]

TableFormat = Literal["table", "json", "csv", "markdown"]
Column = tuple[str, Callable[[Row], str]]

VERDICT_MARKS: dict[Verdict, tuple[str, str]] = {
    "boosts": ("▲ boosts", "bold blue"),
    "hurts": ("▼ hurts", "bold dark_orange"),
    "no difference shown": ("no difference shown", "dim"),
    "not enough seeds": ("not enough seeds", "dim"),
}
PIPE_WIDTH = 100
"""Characters of a table that is not printed to a terminal."""
MAX_WIDTH = 24
"""Of a column; the whole table then fits 100."""

CAPTION = (
    "Boost: mean paired difference from the arm none over seeds and test items, positive is better, with its 95 % "
    "interval. p: two-sided, Holm-corrected; verdicts at p < 0.05."
)


def setting_label(row: Row, rows: Sequence[Row]) -> str:
    """Name what a row is about: its task, and its network and data set where the rows have several."""
    parts = [row.task]
    if len({other.network for other in rows if other.task == row.task}) > 1:
        parts.append(row.network)
    if len({other.dataset for other in rows if other.task == row.task}) > 1:
        parts.append(row.dataset)
    return " ".join(parts)


def leaderboard_table(leaderboard: Leaderboard) -> Group:
    """Return terminal tables, one for each task and metric, that fit 100 columns."""
    note = f" Runs left out, without another half yet: {leaderboard.unpaired}." if leaderboard.unpaired else ""
    return Group(*_tables_by_metric(leaderboard.rows), Text(CAPTION + note, style="dim"))


def leaderboard_markdown(leaderboard: Leaderboard) -> str:
    """Return a Markdown table."""
    columns = _all_columns(leaderboard.rows)
    return markdown_table(
        [name for name, _ in columns], [[value(row) for _, value in columns] for row in leaderboard.rows]
    )


def leaderboard_csv(leaderboard: Leaderboard) -> str:
    """Return all fields of all rows, unrounded; what is unknown is empty."""
    return csv_table(Row.columns(), [list(row.as_dict().values()) for row in leaderboard.rows])


def leaderboard_json(leaderboard: Leaderboard) -> str:
    """Return ``{"schema": 1, "rows": [...]}``."""
    return json.dumps(leaderboard.as_dict(), indent=2, allow_nan=False)


def comparison_table(comparison: Comparison) -> Group:
    """Return terminal tables that fit 100 columns: each metric's boosts, and below them the boosts of each seed."""
    parts: list[RenderableType] = []
    for metric in dict.fromkeys(arm.row.metric for arm in comparison.arms):
        arms = [arm for arm in comparison.arms if arm.row.metric == metric]
        parts += [*_tables_by_metric([arm.row for arm in arms]), _seed_table(arms)]
    return Group(*parts, Text(f"{CAPTION} Corrected as on the leaderboard of the whole folder.", style="dim"))


def comparison_markdown(comparison: Comparison) -> str:
    """Return a Markdown table."""
    rows = [arm.row for arm in comparison.arms]
    columns = _all_columns(rows)
    lines = [[value(arm.row) for _, value in columns] for arm in comparison.arms]
    by_seed = [" ".join(f"{boost:+.3f}" for boost in arm.seed_boosts.values()) for arm in comparison.arms]
    return markdown_table(
        [*(name for name, _ in columns), "by seed"],
        [[*line, seeds] for line, seeds in zip(lines, by_seed, strict=True)],
    )


def comparison_csv(comparison: Comparison) -> str:
    """Return all fields of all rows, unrounded, and the boost of each seed."""
    seeds = sorted({seed for arm in comparison.arms for seed in arm.seed_boosts})
    header = [*Row.columns(), *(f"boost_seed_{seed}" for seed in seeds)]
    return csv_table(
        header, [[*arm.row.as_dict().values(), *map(arm.seed_boosts.get, seeds)] for arm in comparison.arms]
    )


def comparison_json(comparison: Comparison) -> str:
    """Return ``{"schema": 1, "task": ..., "rows": [...]}``; a row also has ``seed_boosts``, by seed."""
    return json.dumps(comparison.as_dict(), indent=2, allow_nan=False)


def print_leaderboard(leaderboard: Leaderboard, style: TableFormat = "table", console: Console | None = None) -> None:
    """Print a leaderboard to standard output."""
    writers = {"json": leaderboard_json, "csv": leaderboard_csv, "markdown": leaderboard_markdown}
    _print(leaderboard_table(leaderboard) if style == "table" else writers[style](leaderboard), console)


def print_comparison(comparison: Comparison, style: TableFormat = "table", console: Console | None = None) -> None:
    """Print a comparison to standard output."""
    writers = {"json": comparison_json, "csv": comparison_csv, "markdown": comparison_markdown}
    _print(comparison_table(comparison) if style == "table" else writers[style](comparison), console)


def _print(output: RenderableType, console: Console | None) -> None:
    console = console or Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    if isinstance(output, str):
        console.file.write(output.rstrip("\n") + "\n")  # as it is: no markup, no wrapping
    else:
        console.print(output)


def _arm_columns(rows: Sequence[Row]) -> list[Column]:
    """Return what is said of an arm, once task and metric are known."""
    columns: list[Column] = [
        ("train", lambda row: format_fraction(row.fraction)),
        ("arm", lambda row: row.arm),
        ("score", lambda row: f"{row.score:.3f}"),
        ("none", lambda row: f"{row.baseline:.3f}"),
        ("boost [95 %]", format_boost),
        ("p", lambda row: format_p(row.p_holm)),
        ("over random", lambda row: "" if row.boost_over_random is None else f"{row.boost_over_random:+.3f}"),
        ("verdict", lambda row: VERDICT_MARKS[row.verdict][0]),
    ]
    return [column for column in columns if column[0] != "over random" or any(map(column[1], rows))]


def _all_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of a table of several tasks; it says of how many seeds a row is where rows differ in that."""
    seeds: list[Column] = [("seeds", lambda row: str(row.seeds))] if len({row.seeds for row in rows}) > 1 else []
    return [("task", lambda row: setting_label(row, rows)), ("metric", metric_label), *seeds, *_arm_columns(rows)]


def metric_label(row: Row) -> str:
    """Return the metric's name, with an arrow where lower is better."""
    return row.metric if row.higher_is_better else f"{row.metric} ↓"


def format_fraction(fraction: float) -> str:
    """Return a share of the training clips in per cent."""
    return f"{100 * fraction:g} %"


def format_count(counts: Iterable[int], noun: str) -> str:
    """Return how many there are, ``1 seed`` or ``6 seeds``, and where counts differ their range, ``3 to 6 seeds``."""
    least, most = min(found := set(counts)), max(found)
    number = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"{number} {noun}" if most == 1 else f"{number} {noun}s"


def format_boost(row: Row) -> str:
    """Return a boost with its interval, ``+0.021 [+0.008, +0.034]``."""
    interval = "" if row.ci_low is None else f" [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
    return f"{row.boost:+.3f}{interval}"


def format_p(p: float | None) -> str:
    """Return a p-value with three digits after the point, never ``0.000``; nothing where there is none."""
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _tables_by_metric(rows: Sequence[Row]) -> list[RenderableType]:
    """Return a heading and a table for each task and metric; all tables have columns of the same width."""
    widths = [max(map(len, (name.split()[-1], *map(value, rows)))) for name, value in _arm_columns(rows)]
    parts: list[RenderableType] = []
    for heading in dict.fromkeys(_heading(row, rows) for row in rows):
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        for (name, _), width in zip(_arm_columns(rows), widths, strict=True):
            justify: Literal["left", "right"] = "left" if name in {"arm", "verdict"} else "right"
            table.add_column(name, justify=justify, overflow="fold", width=min(width, MAX_WIDTH))
        for row in rows:
            if _heading(row, rows) == heading:
                cells = [Text(value(row)) for _, value in _arm_columns(rows)]  # Text: a name is never read as markup
                cells[-1].stylize(VERDICT_MARKS[row.verdict][1])
                table.add_row(*cells)
        parts += [Text(heading, style="bold"), table, Text()]
    return parts


def _heading(row: Row, rows: Sequence[Row]) -> str:
    about = (row.task, row.network, row.dataset, row.metric)
    seeds = {other.seeds for other in rows if (other.task, other.network, other.dataset, other.metric) == about}
    place = f"{row.items} {row.dataset} items, {format_count(seeds, 'seed')}"
    return f"{setting_label(row, rows)}: {metric_label(row)} on {place}"


def _seed_table(arms: Sequence[ComparedArm]) -> Table:
    seeds = sorted({seed for arm in arms for seed in arm.seed_boosts})
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", title="boost by seed", title_justify="left")
    table.add_column("train", justify="right")
    table.add_column("arm", overflow="fold", max_width=MAX_WIDTH)
    for seed in seeds:
        table.add_column(str(seed), justify="right", no_wrap=True)
    for arm in arms:
        boosts = [f"{arm.seed_boosts[seed]:+.3f}" if seed in arm.seed_boosts else "" for seed in seeds]
        table.add_row(Text(format_fraction(arm.row.fraction)), Text(arm.row.arm), *boosts)
    return table


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [list(header), ["---"] * len(header), *([_escape(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in table) + "\n"


def _escape(cell: str) -> str:
    for character in "\\|*_`<[":
        cell = cell.replace(character, f"\\{character}")
    return cell.replace("\n", " ")


def csv_table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return file.getvalue()
