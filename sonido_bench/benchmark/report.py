"""One HTML page that shows what a folder of results says, and opens without a network."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sonido_bench import __version__
from sonido_bench.benchmark.charts import ArmStyle, Bar, Chart, Sample, arm_styles, bar, chart
from sonido_bench.benchmark.examples import Example, examples_of
from sonido_bench.benchmark.experiment import BASELINE
from sonido_bench.benchmark.leaderboard import Leaderboard, Point, Row, build_leaderboard
from sonido_bench.benchmark.results import Result, load_results
from sonido_bench.benchmark.statistics import ALPHA
from sonido_bench.benchmark.tables import format_boost, format_count, format_fraction, format_p, metric_label
from sonido_bench.files import write_text

__all__ = ["render_report", "write_report"]

Setting = tuple[str, str, str]
"""Task, network, data set."""


@dataclass(frozen=True)
class Line:
    """A row of the leaderboard as it is printed."""

    row: Row
    setting: str
    metric: str
    fraction: str
    seeds: str
    boost: str
    over_random: str
    p: str
    bar: Bar


@dataclass(frozen=True)
class CostLine:
    """Mean cost of an arm: runs, parameters (total, trained, extractor), wall and CPU seconds, peak megabytes."""

    setting: str
    arm: str
    numbers: list[float]


def write_report(folder: Path) -> Path:
    """Write ``folder/report/index.html`` from the results in ``folder/runs``.

    Recordings in ``folder/examples/<clip>.ogg`` are put into the page.

    Returns:
        The path of the page.

    Raises:
        ResultError: If there is no result, or one cannot be read or compared.
        OSError: If the page cannot be written.
    """
    path = folder / "report" / "index.html"
    write_text(path, render_report(load_results(folder), folder.resolve().name, folder / "examples"))
    return path


def render_report(results: Sequence[Result], name: str, recordings: Path) -> str:
    """Return the page.

    Args:
        results: All runs of a benchmark.
        name: Of the benchmark.
        recordings: Folder of ``<clip>.ogg``.

    Raises:
        ResultError: If runs that should be compared have different items, data or metrics.
    """
    leaderboard = build_leaderboard(results, metrics="all")
    arms = sorted({result.experiment.arm for result in results}, key=lambda arm: (arm != BASELINE, arm))
    styles = arm_styles(arms, BASELINE)
    environment = _environment()
    script = environment.get_template("sort.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("report.html.j2").render(
        title=f"{name}: does a frozen music model help?",
        summary=_summary(leaderboard),
        protocol=_protocol(results, leaderboard),
        primary=_lines([row for row in leaderboard.rows if row.primary], results),
        others=_lines([row for row in leaderboard.rows if not row.primary], results),
        styles=styles,
        scarcity=_scarcity_charts(leaderboard.points, results, styles),
        settings=list(_labels(results).values()),
        learning=_learning_charts(results, styles),
        costs=_costs(results),
        examples=_examples(results, recordings),
        provenance=_provenance(results),
        version=__version__,
        script=Markup(script),  # our own file: nothing of the results is in it
        script_hash=f"sha256-{digest}",
    )


def _environment() -> Environment:
    """Return the templates, in which every name of the results stays text."""
    return Environment(
        loader=PackageLoader("sonido_bench.benchmark"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _summary(leaderboard: Leaderboard) -> str:
    """Say in two sentences what was found."""
    rows = [row for row in leaderboard.rows if row.primary and row.p is not None]
    if not rows:
        return "No comparison has two seeds of both halves yet, so nothing can be said."
    boosts = [row for row in rows if row.verdict == "boosts"]
    hurts = sum(row.verdict == "hurts" for row in rows)
    found = (
        f"Of {len(rows)} comparisons with the same network without features, {len(boosts)} show a boost, "
        f"{hurts} show harm and {len(rows) - len(boosts) - hurts} show no difference."
    )
    trained = [row for row in boosts if row.boost_over_random_p is not None]
    if trained:
        beats = sum((row.boost_over_random or 0) > 0 and (row.boost_over_random_p or 0) < ALPHA for row in trained)
        found += (
            f" Of {len(trained)} boosts by a trained model that has an untrained control, {beats} also beat it "
            f"(p < {ALPHA:g}, uncorrected)."
        )
    return found


def _protocol(results: Sequence[Result], leaderboard: Leaderboard) -> list[str]:
    seeds: dict[Setting, set[int]] = {}
    for result in results:
        seeds.setdefault(_setting(result.experiment), set()).add(result.experiment.seed)
    count = format_count(map(len, seeds.values()), "seed")
    items = format_count((len(result.items.names) for result in results), "test item")
    tested = sum(row.primary and row.p is not None for row in leaderboard.rows)
    unpaired = format_count([leaderboard.unpaired], "run")
    waiting = f" Left out, without another half yet: {unpaired}." if leaderboard.unpaired else ""
    return [
        f"{format_count([len(results)], 'run')}, {count}, {items}.{waiting}",
        "Two runs that differ in the arm alone are a pair: same network, data, order, initial weights and budget.",
        "The weights that are tested are chosen on validation; each run reads the test set once, at its end.",
        "Intervals and p-values count both the spread between training seeds and that between test items "
        "(the distribution of Behrens and Fisher).",
        f"Verdicts are at p < {ALPHA:g} after Holm's correction for {format_count([tested], 'comparison')}.",
    ]


def _setting(experiment: Any) -> Setting:
    """Return the setting of anything that has a task, a network and a data set."""
    return (experiment.task, experiment.network, experiment.dataset)


def _labels(results: Sequence[Result]) -> dict[Setting, str]:
    """Name settings by their task, and by network and data set where these differ within a task."""
    settings = sorted({_setting(result.experiment) for result in results})
    labels = {}
    for setting in settings:
        same_task = [other for other in settings if other[0] == setting[0]]
        extra = [setting[place] for place in (1, 2) if len({other[place] for other in same_task}) > 1]
        labels[setting] = " · ".join([setting[0], *extra])
    return labels


def _lines(rows: Sequence[Row], results: Sequence[Result]) -> list[Line]:
    labels = _labels(results)
    extents: dict[str, float] = {}
    for row in rows:
        ends = (row.boost, row.ci_low or 0.0, row.ci_high or 0.0)
        extents[row.metric] = max(extents.get(row.metric, 0.0), *map(abs, ends))
    return [
        Line(
            row,
            labels[_setting(row)],
            metric_label(row),
            format_fraction(row.fraction),
            format_count([row.seeds], "seed"),
            format_boost(row),
            "" if row.boost_over_random is None else f"{row.boost_over_random:+.3f}",
            format_p(row.p_holm),
            bar(row.boost, row.ci_low, row.ci_high, extents[row.metric]),
        )
        for row in rows
    ]


def _scarcity_charts(points: Sequence[Point], results: Sequence[Result], styles: Mapping[str, ArmStyle]) -> list[Chart]:
    charts = []
    for setting, label in _labels(results).items():
        here = sorted((point for point in points if _setting(point) == setting), key=lambda point: point.fraction)
        if len({point.fraction for point in here}) < 2:
            continue
        curves = {
            arm: [Sample(p.fraction, p.score, p.ci_low, p.ci_high) for p in here if p.arm == arm]
            for arm in styles
            if any(point.arm == arm for point in here)
        }
        charts.append(chart(label, "share of the training clips", here[0].metric, curves, styles, per_cent=True))
    return charts


def _learning_charts(results: Sequence[Result], styles: Mapping[str, ArmStyle]) -> list[Chart]:
    charts = []
    fractions = sorted({result.experiment.fraction for result in results})
    for setting, label in _labels(results).items():
        for fraction in fractions:
            runs = [r for r in results if _setting(r.experiment) == setting and r.experiment.fraction == fraction]
            key = _history_key(runs)
            curves = {arm: _learning_curve([run for run in runs if run.experiment.arm == arm], key) for arm in styles}
            curves = {arm: curve for arm, curve in curves.items() if curve}
            if curves:
                title = f"{label}, {format_fraction(fraction)} of the training clips"
                charts.append(chart(title, "step", key, curves, styles))
    return charts


def _history_key(runs: Sequence[Result]) -> str:
    """Return the validation value to draw: the primary metric where it was recorded, else the loss."""
    wanted = f"val/{runs[0].primary.name}" if runs else ""
    return wanted if any(wanted in entry for run in runs for entry in run.history) else "val/loss"


def _learning_curve(runs: Sequence[Result], key: str) -> list[Sample]:
    """Average the seeds at the steps that all of them have."""
    by_step = [{entry["step"]: entry[key] for entry in run.history if "step" in entry and key in entry} for run in runs]
    steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
    return [Sample(step, float(np.mean([values[step] for values in by_step]))) for step in steps]


def _costs(results: Sequence[Result]) -> list[CostLine]:
    labels = _labels(results)
    groups: dict[tuple[Setting, str], list[Result]] = {}
    for result in results:
        groups.setdefault((_setting(result.experiment), result.experiment.arm), []).append(result)
    lines = []
    for (setting, arm), runs in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1] != BASELINE, item[0][1])
    ):
        numbers = [
            (
                run.parameters.total,
                run.parameters.trained,
                run.parameters.extractor,
                run.cost.wall_seconds,
                run.cost.cpu_seconds,
                run.cost.peak_memory_bytes / 1e6,
            )
            for run in runs
        ]
        lines.append(CostLine(labels[setting], arm, [len(runs), *np.mean(numbers, axis=0).tolist()]))
    return lines


def _examples(results: Sequence[Result], recordings: Path) -> dict[str, list[Example]]:
    """Return examples by setting: of the first seed at the largest fraction."""
    examples = {}
    for setting, label in _labels(results).items():
        here = [result for result in results if _setting(result.experiment) == setting]
        largest = max(result.experiment.fraction for result in here)
        runs: dict[str, Result] = {}
        for run in sorted(
            here, key=lambda run: (run.experiment.arm != BASELINE, run.experiment.arm, run.experiment.seed)
        ):
            if run.experiment.fraction == largest:
                runs.setdefault(run.experiment.arm, run)
        if shown := examples_of(runs, recordings):
            examples[label] = shown
    return examples


def _provenance(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return every distinct value of data, environment and extractors."""
    rows = [("data", _distinct(" ".join(map(str, result.data.values())) for result in results))]
    for key in dict.fromkeys(key for result in results for key in result.environment):
        rows.append((key, _distinct(_flat(result.environment.get(key)) for result in results)))
    extractors = (f"{result.extractor['name']} {result.extractor['sha256']}" for result in results if result.extractor)
    return [*rows, ("extractors", _distinct(extractors))]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return "unknown" if value is None else str(value)


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values)) or "none"
