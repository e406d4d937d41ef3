import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score

from sonido_bench.benchmark.compare import compare, save_item_plot
from sonido_bench.benchmark.leaderboard import build_leaderboard
from sonido_bench.benchmark.tables import comparison_csv, comparison_json, print_comparison
from sonido_bench.errors import ConfigError
from tests.benchmark.fabricate import make_benchmark, make_result


@pytest.fixture(scope="module")
def results():
    return make_benchmark()


def first(comparison, arm, metric, fraction=1.0):
    wanted = (arm, metric, fraction)
    return next(a for a in comparison.arms if (a.row.arm, a.row.metric, a.row.fraction) == wanted)


def runs(results, task, arm, fraction=1.0):
    wanted = (task, arm, fraction)
    return [r for r in results if (r.experiment.task, r.experiment.arm, r.experiment.fraction) == wanted]


def test_rows_are_those_of_the_leaderboard(results):
    rows = [row for row in build_leaderboard(results, metrics="all").rows if row.task == "key"]
    assert [arm.row for arm in compare(results, "key").arms] == rows
    only = compare(results, "key", ["tiny"])
    assert [arm.row for arm in only.arms] == [row for row in rows if row.arm == "tiny"]


def test_seed_and_item_boosts_of_a_per_item_metric(results):
    arm = first(compare(results, "key"), "tiny", "error")
    ours, theirs = (
        np.array([run.items.scores["error"] for run in runs(results, "key", name)]) for name in ("tiny", "none")
    )
    assert not arm.pseudo
    assert list(arm.seed_boosts) == [0, 1, 2]
    assert list(arm.seed_boosts.values()) == pytest.approx((theirs - ours).mean(axis=1).tolist())
    assert arm.item_boosts == pytest.approx((theirs - ours).mean(axis=0))
    assert arm.items == runs(results, "key", "tiny")[0].items.names


def test_items_of_a_corpus_level_metric_are_jackknife_pseudo_values(results):
    arm = first(compare(results, "instruments"), "tiny", "map")
    assert arm.pseudo

    def boost(kept):
        scores = {
            name: np.mean(
                [
                    average_precision_score(np.array(r.items.targets)[kept], np.array(r.items.predictions)[kept])
                    for r in runs(results, "instruments", name)
                ]
            )
            for name in ("tiny", "none")
        }
        return scores["tiny"] - scores["none"]

    whole = np.arange(40)
    for index in (0, 7, 39):
        expected = 40 * boost(whole) - 39 * boost(np.delete(whole, index))
        assert arm.item_boosts[index] == pytest.approx(expected, abs=1e-6)


def test_equal_items_are_exactly_zero():
    items = make_result().items
    one = replace(items, scores={name: [scores[0] + 0.1, *scores[1:]] for name, scores in items.scores.items()})
    results = [
        make_result(arm=arm, seed=seed, items=one if arm == "tiny" else items)
        for arm in ("none", "tiny")
        for seed in (0, 1)
    ]
    boosts = first(compare(results, "key"), "tiny", "accuracy").item_boosts
    assert boosts[0] == pytest.approx(0.1)
    assert (boosts[1:] == 0).all()


def test_the_only_positive_of_the_only_class_does_not_break_it():
    results = []
    for arm in ("none", "tiny"):
        items = make_result("instruments", arm).items
        alone = [[1.0] if index == 0 else [0.0] for index in range(40)]
        one = replace(items, targets=alone, predictions=[row[:1] for row in items.predictions])
        results += [make_result("instruments", arm, seed=seed, items=one) for seed in (0, 1)]
    assert np.isfinite(first(compare(results, "instruments"), "tiny", "map").item_boosts).all()


def test_unknown_names_say_what_there_is(results):
    with pytest.raises(ConfigError, match=r"no task 'keys'.*there are: instruments, key"):
        compare(results, "keys")
    with pytest.raises(ConfigError, match=r"no arm 'huge'.*there are: tiny, tiny@random"):
        compare(results, "key", ["huge"])
    with pytest.raises(ConfigError, match="no task 'key' with a run beside its baseline; there are: key"):
        compare([make_result()], "key")


def test_formats_agree(results):
    comparison = compare(results, "key", ["tiny"])
    content = json.loads(comparison_json(comparison))
    assert (content["schema"], content["task"]) == (1, "key")
    by_seed = content["rows"][0]["seed_boosts"]
    assert list(by_seed) == ["0", "1", "2"]
    assert np.mean(list(by_seed.values())) == pytest.approx(content["rows"][0]["boost"])
    assert comparison_csv(comparison).splitlines()[0].endswith("boost_seed_0,boost_seed_1,boost_seed_2")
    file = io.StringIO()
    print_comparison(comparison, "table", Console(file=file, width=100))
    assert max(map(len, file.getvalue().splitlines())) <= 100
    assert f"{by_seed['0']:+.3f} {by_seed['1']:+.3f} {by_seed['2']:+.3f}" in file.getvalue()


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_plot_is_written(results, tmp_path, suffix):
    path = tmp_path / "plots" / f"items.{suffix}"
    odd = [replace(r, experiment=replace(r.experiment, arm=r.experiment.arm.replace("tiny", "$t_$"))) for r in results]
    save_item_plot(compare(odd, "instruments"), path)
    head = path.read_bytes()[:300]
    assert b"<svg" in path.read_bytes()[:2000] if suffix == "svg" else head.startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
