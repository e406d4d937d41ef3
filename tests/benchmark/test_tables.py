import csv
import io
import json

import pytest
from rich.console import Console

from sonido_bench.benchmark.compare import compare
from sonido_bench.benchmark.leaderboard import Leaderboard, Row, build_leaderboard
from sonido_bench.benchmark.tables import (
    comparison_csv,
    comparison_json,
    comparison_markdown,
    format_count,
    format_p,
    leaderboard_csv,
    leaderboard_json,
    leaderboard_markdown,
    print_comparison,
    print_leaderboard,
)
from tests.benchmark.fabricate import make_benchmark, make_result

ARMS = ("none", "sonido-tiny", "sonido-tiny@random", "sonido-tiny@tokenizer")


@pytest.fixture(scope="module")
def results():
    return make_benchmark(arms=ARMS, seeds=range(5), effects={"sonido-tiny": 0.3, "sonido-tiny@random": -0.3})


@pytest.fixture(scope="module")
def leaderboard(results):
    return build_leaderboard(results)


def printed(write, *arguments):
    file = io.StringIO()
    write(*arguments, Console(file=file, width=100))
    return file.getvalue()


def test_the_terminal_table_fits_100_columns_with_one_line_a_row(leaderboard):
    text = printed(print_leaderboard, leaderboard, "table")
    assert max(map(len, text.splitlines())) <= 100
    for row in leaderboard.rows:
        assert any(
            f" {row.arm} " in line and f"{row.boost:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]" in line
            for line in text.splitlines()
        )
    assert text.count("▲ boosts") == sum(row.verdict == "boosts" for row in leaderboard.rows) > 0
    assert text.count("▼ hurts") == sum(row.verdict == "hurts" for row in leaderboard.rows) > 0


def test_json_has_the_promised_fields(leaderboard):
    content = json.loads(leaderboard_json(leaderboard))
    assert content["schema"] == 1
    assert content["rows"] == [row.as_dict() for row in leaderboard.rows]
    promised = (
        "task network dataset metric higher_is_better arm fraction seeds items score baseline boost ci_low ci_high p "
        "p_holm verdict primary "
        "boost_over_random boost_over_random_ci_low boost_over_random_ci_high boost_over_random_p"
    )
    assert set(content["rows"][0]) == set(promised.split())


def test_csv_holds_the_same_numbers_unrounded(leaderboard):
    lines = list(csv.DictReader(io.StringIO(leaderboard_csv(leaderboard))))
    assert len(lines) == len(leaderboard.rows)
    for line, row in zip(lines, leaderboard.rows, strict=True):
        assert list(line) == Row.columns()
        assert float(line["boost"]) == row.boost
        assert line["boost_over_random"] == ("" if row.boost_over_random is None else str(row.boost_over_random))


def test_markdown_has_a_line_for_every_row(leaderboard):
    lines = leaderboard_markdown(leaderboard).splitlines()
    assert len(lines) == 2 + len(leaderboard.rows)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_names_are_never_markup():
    arm = "[red]|<b>"
    results = [make_result(arm=name, seed=seed) for name in ("none", arm) for seed in range(2)]
    leaderboard = build_leaderboard(results)
    assert arm in printed(print_leaderboard, leaderboard, "table")
    assert "\\[red]\\|\\<b>" in leaderboard_markdown(leaderboard)
    assert json.loads(printed(print_leaderboard, leaderboard, "json"))["rows"][0]["arm"] == arm


def test_wide_formats_are_not_wrapped(leaderboard, results):
    for style, write in (("csv", leaderboard_csv), ("json", leaderboard_json), ("markdown", leaderboard_markdown)):
        assert printed(print_leaderboard, leaderboard, style).rstrip("\n") == write(leaderboard).rstrip("\n")
    comparison = compare(results, "key", resamples=20)
    for style, write in (("csv", comparison_csv), ("json", comparison_json), ("markdown", comparison_markdown)):
        assert printed(print_comparison, comparison, style).rstrip("\n") == write(comparison).rstrip("\n")


def test_runs_without_another_half_and_unknown_numbers_are_shown():
    leaderboard = build_leaderboard([make_result(), make_result(arm="tiny"), make_result(arm="tiny", seed=1)])
    text = printed(print_leaderboard, leaderboard, "table")
    assert "Runs left out, without another half yet: 1." in " ".join(text.split())
    assert "not enough seeds" in text
    assert "None" not in text + leaderboard_markdown(leaderboard) + leaderboard_csv(leaderboard)


def test_where_tasks_have_different_grids_the_number_of_seeds_is_said(results):
    assert "| seeds |" not in leaderboard_markdown(build_leaderboard(results))
    other = make_benchmark(("transcription",), ARMS, (0.1,), seeds=range(3))
    leaderboard = build_leaderboard([*results, *other])
    text = printed(print_leaderboard, leaderboard, "table")
    assert "key: accuracy on 40 rendered items, 5 seeds" in text
    assert "transcription: note_f1 on 40 rendered items, 3 seeds" in text
    assert max(map(len, text.splitlines())) <= 100
    head, _, *lines = [line.strip("| ").split(" | ") for line in leaderboard_markdown(leaderboard).splitlines()]
    assert head[:4] == ["task", "metric", "seeds", "train"]
    assert {tuple(line[place] for place in (0, 2)) for line in lines} == {
        ("instruments", "5"), ("key", "5"), ("transcription", "3")
    }  # fmt: skip
    compared = printed(print_comparison, compare([*results, *other], "transcription", resamples=20), "table")
    assert "on 40 rendered items, 3 seeds" in compared


@pytest.mark.parametrize(
    ("counts", "text"),
    [([1], "1 seed"), ([6, 6], "6 seeds"), ([1, 3], "1 to 3 seeds"), ([2000], "2,000 seeds"), ([0], "0 seeds")],
)
def test_counts(counts, text):
    assert format_count(counts, "seed") == text


def test_an_empty_leaderboard_prints():
    empty = Leaderboard([], [], unpaired=0)
    assert "Boost" in printed(print_leaderboard, empty, "table")
    assert json.loads(leaderboard_json(empty)) == {"schema": 1, "rows": []}


def test_several_networks_are_told_apart():
    results = [
        make_result(arm=arm, seed=seed, network=network)
        for arm in ("none", "tiny")
        for seed in range(2)
        for network in ("wide", "narrow")
    ]
    text = printed(print_leaderboard, build_leaderboard(results), "table")
    assert "key wide: accuracy" in text
    assert "key narrow: accuracy" in text


@pytest.mark.parametrize(("p", "text"), [(None, ""), (0.0004, "<0.001"), (0.04949, "0.049"), (1.0, "1.000")])
def test_p_values(p, text):
    assert format_p(p) == text
