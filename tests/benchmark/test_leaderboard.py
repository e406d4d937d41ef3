"""Rows against a slow reference: loops, scikit-learn and scipy on repeated items."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from sonido_bench.benchmark.leaderboard import build_leaderboard
from sonido_bench.benchmark.resampling import bootstrap_weights
from sonido_bench.benchmark.results import Items
from sonido_bench.benchmark.statistics import estimate
from sonido_bench.errors import ResultError
from tests.benchmark.fabricate import ERROR, make_benchmark, make_items, make_result


@pytest.fixture(scope="module")
def results():
    return make_benchmark(tasks=("key", "instruments", "tempo"), effects={"tiny": 0.3, "tiny@random": 0.0})


def find(leaderboard, task, arm, fraction=1.0, metric=None):
    rows = [row for row in leaderboard.rows if (row.task, row.arm, row.fraction) == (task, arm, fraction)]
    return next(row for row in rows if metric in (None, row.metric))


def runs_of(results, task, arm):
    return {r.experiment.seed: r for r in results if r.experiment.task == task and r.experiment.arm == arm
            and r.experiment.fraction == 1.0}  # fmt: skip


def slow_values(score, ours, theirs, resamples):
    """By loops: one row for each seed, the whole test set first."""
    items = len(ours[0].items.names)
    counts = bootstrap_weights(items, resamples, seed=0).astype(int)
    drawn = [np.repeat(np.arange(items), column) for column in counts.T]
    return np.array([[score(ours[seed], index) - score(theirs[seed], index) for index in drawn] for seed in ours])


def check(row, expected):
    assert row.boost == pytest.approx(expected.mean, abs=1e-6)
    assert (row.ci_low, row.ci_high) == (pytest.approx(expected.low, abs=1e-5), pytest.approx(expected.high, abs=1e-5))
    assert row.p == pytest.approx(expected.p, rel=1e-3)


def test_a_per_item_metric_equals_the_slow_reference(results):
    ours, theirs = runs_of(results, "key", "tiny"), runs_of(results, "key", "none")
    values = slow_values(lambda run, index: np.mean(np.array(run.items.scores["accuracy"])[index]), ours, theirs, 60)
    check(find(build_leaderboard(results, resamples=60), "key", "tiny"), estimate(values, 40))


def test_average_precision_equals_the_slow_reference(results):
    def score(run, index):
        targets, predictions = np.array(run.items.targets)[index], np.array(run.items.predictions)[index]
        return average_precision_score(targets, predictions, average="macro")

    leaderboard = build_leaderboard(results, resamples=40)
    ours, theirs = runs_of(results, "instruments", "tiny"), runs_of(results, "instruments", "none")
    row = find(leaderboard, "instruments", "tiny")
    check(row, estimate(slow_values(score, ours, theirs, 40), 40))
    everything = slice(None)
    assert row.score == pytest.approx(np.mean([score(run, everything) for run in ours.values()]), abs=1e-6)
    assert row.baseline == pytest.approx(np.mean([score(run, everything) for run in theirs.values()]), abs=1e-6)

    control = runs_of(results, "instruments", "tiny@random")
    over_random = estimate(slow_values(score, ours, control, 40), 40)
    assert row.boost_over_random == pytest.approx(over_random.mean, abs=1e-6)
    assert row.boost_over_random_ci_low == pytest.approx(over_random.low, abs=1e-5)
    assert row.boost_over_random_p == pytest.approx(over_random.p, rel=1e-3)


def test_verdicts_follow_the_corrected_p_and_the_sign(results):
    rows = build_leaderboard(results, resamples=200).rows
    assert find(build_leaderboard(results), "key", "tiny").verdict == "boosts"
    for row in rows:
        significant = row.p_holm < 0.05
        assert row.p_holm >= row.p
        assert row.verdict == ("no difference shown" if not significant else "boosts" if row.boost > 0 else "hurts")


def test_lower_is_better_turns_the_sign(results):
    row = find(build_leaderboard(results, metrics="all"), "key", "tiny", metric="error")
    assert not row.higher_is_better
    assert row.score < row.baseline
    assert row.boost == pytest.approx(row.baseline - row.score)
    assert row.verdict == "boosts"
    assert not row.primary


def test_other_metrics_do_not_change_the_primary_ones(results):
    few, many = build_leaderboard(results), build_leaderboard(results, metrics="all")
    assert [row for row in many.rows if row.primary] == few.rows
    assert len(many.rows) == 2 * 2 * (2 + 2 + 1)


def test_it_is_a_pure_function_sorted_by_task_fraction_arm(results):
    first = build_leaderboard(results)
    assert build_leaderboard(list(reversed(results))) == first
    keys = [(row.task, row.fraction, row.arm) for row in first.rows]
    assert keys == sorted(keys)
    assert build_leaderboard(results, seed=1).rows[0].ci_low != first.rows[0].ci_low


def test_controls_are_not_compared_with_themselves(results):
    row = find(build_leaderboard(results), "key", "tiny@random")
    assert row.boost_over_random is None
    assert row.boost_over_random_p is None


def test_equal_scores_are_no_difference():
    items = make_items("instruments")
    results = [make_result("instruments", arm, seed=seed, items=items) for arm in ("none", "tiny") for seed in range(3)]
    (row,) = build_leaderboard(results).rows
    assert (row.boost, row.ci_low, row.ci_high, row.p, row.p_holm) == (0, 0, 0, 1, 1)
    assert row.verdict == "no difference shown"


def test_only_common_seeds_count():
    results = make_benchmark(tasks=("key",), arms=("none", "tiny"), fractions=(1.0,), seeds=range(4))
    gone = [r for r in results if (r.experiment.arm, r.experiment.seed) not in {("none", 0), ("tiny", 3)}]
    leaderboard = build_leaderboard(gone)
    assert leaderboard.rows[0].seeds == 2
    assert leaderboard.unpaired == 2
    same = build_leaderboard([r for r in gone if r.experiment.seed in (1, 2)])
    assert same.rows == leaderboard.rows


def test_one_common_seed_gives_no_interval():
    (row,) = build_leaderboard([make_result(), make_result(arm="tiny")]).rows
    assert row.verdict == "not enough seeds"
    assert (row.ci_low, row.ci_high, row.p, row.p_holm) == (None, None, None, None)
    assert row.seeds == 1


def test_no_pair_gives_no_row():
    leaderboard = build_leaderboard([make_result(arm="tiny"), make_result(arm="none", seed=1)])
    assert leaderboard.rows == []
    assert leaderboard.unpaired == 2


def test_items_are_matched_by_name_not_by_place():
    results = make_benchmark(arms=("none", "tiny"), fractions=(1.0,))

    def turned(items: Items) -> Items:
        return Items(
            items.names[::-1],
            {name: scores[::-1] for name, scores in items.scores.items()},
            items.targets[::-1],
            items.predictions[::-1],
        )

    mixed = [replace(r, items=turned(r.items)) if r.experiment.arm == "tiny" else r for r in results]
    assert build_leaderboard(mixed).rows == build_leaderboard(results).rows


def refuse(match, *results):
    with pytest.raises(ResultError, match=match) as error:
        build_leaderboard(results)
    assert "\n" not in str(error.value)


def test_halves_that_cannot_be_compared():
    ours, theirs = make_result(arm="tiny"), make_result()
    renamed = replace(ours.items, names=[f"other-{name}" for name in ours.items.names])
    refuse(r"different items \(40 and 40, 0 in common\)", theirs, replace(ours, items=renamed))
    refuse("different data", theirs, replace(ours, data={"name": "rendered", "version": "2"}))
    refuse("different metrics", theirs, replace(ours, metrics=(ERROR,)))
    refuse("two results of", theirs, theirs)
    labels, other = make_result("instruments", "tiny"), make_result("instruments")
    flipped = [[1 - value for value in row] for row in labels.items.targets]
    refuse("different targets", other, replace(labels, items=replace(labels.items, targets=flipped)))


@pytest.mark.parametrize(
    "items",
    [
        Items(["a", "b"], {}),
        Items(["a", "b"], {"accuracy": [0.5]}),
        Items(["a", "b"], {"accuracy": [0.5, None]}),
        Items(["a", "b"], {"accuracy": ["x", "y"]}),
    ],
)
def test_items_without_usable_scores(items):
    refuse("none-1-0: expected finite numbers for each of 2 items to compute accuracy", make_result(items=items))


def test_items_without_usable_names_or_targets():
    refuse("1 of 2 test items have names", make_result(items=Items(["a", "a"], {"accuracy": [1, 1]})))
    refuse("0 of 0", make_result(items=Items([], {})))
    ragged = Items(["a", "b"], {}, [[1.0], [0.0, 1.0]], [[0.5], [0.5]])
    refuse("expected finite numbers", make_result("instruments", items=ragged))
    narrow = Items(["a", "b"], {}, [[1.0, 0.0], [0.0, 1.0]], [[0.5], [0.5]])
    refuse("targets are .* but predictions", make_result("instruments", items=narrow))
    short = Items(["a", "b"], {}, [[1.0]], [[0.5]])
    refuse("2 test items but 1 targets", make_result("instruments", items=short))
    silent = Items(["a", "b"], {}, [[0.0], [0.0]], [[0.5], [0.5]])
    refuse("map is not defined on this test set", make_result("instruments", items=silent))


def test_points_hold_the_baseline_too(results):
    points = build_leaderboard(results).points
    assert {point.arm for point in points} == {"none", "tiny", "tiny@random"}
    assert all(point.ci_low < point.score < point.ci_high for point in points)


def test_no_torch_on_the_way():
    import subprocess
    import sys

    code = (
        "import sys, sonido_bench.benchmark.results, sonido_bench.benchmark.compare, sonido_bench.benchmark.report;"
        "sys.exit(bool({'torch', 'matplotlib', 'scipy.stats'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
