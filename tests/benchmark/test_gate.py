import json
from dataclasses import replace

import pytest

from sonido_bench.benchmark.gate import Criterion, GateRow, print_gate, run_gate
from sonido_bench.datamodules.rendering.dataset import RenderedConfig, prepare
from sonido_bench.errors import ConfigError
from sonido_bench.features.cache import FeatureCache
from sonido_bench.foundation.chroma import Chroma
from sonido_bench.foundation.logmel import LogMel

CRITERIA = (
    Criterion("chroma", "note_ap", 0.01),
    Criterion("chroma", "note_ap", 1.01, required=False),
    Criterion("again", "key_score", 0.0, over="chroma"),
    Criterion("again", "key_score", 0.001, over="chroma"),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    config = RenderedConfig(seed=3, seconds=1.0, train=12, validation=6, test=1)
    return prepare(tmp_path_factory.mktemp("data"), config)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def report(manifest, cache):
    rows = [GateRow("chroma", Chroma()), GateRow("again", Chroma(), ["chroma"])]
    return run_gate(rows, manifest, cache, CRITERIA, resamples=20)


def test_verdicts_follow_from_scores_and_differences(report):
    assert [verdict.passed for verdict in report.verdicts] == [True, False, True, False]
    assert not report.passed
    assert report.verdicts[0].found == report.scores["chroma"]["note_ap"]
    same = report.verdicts[2].found  # paired: one stream does not differ from itself in any resample
    assert (same.value, same.low, same.high) == (0, 0, 0)
    score = report.scores["chroma"]["note_ap"]
    assert score.low <= score.high <= 1


def test_only_required_criteria_keep_the_gate_shut(report):
    without = replace(report, verdicts=report.verdicts[:3])
    assert [verdict.passed for verdict in without.verdicts] == [True, False, True]
    assert without.passed


def test_a_report_is_repeatable_and_names_its_data(report, manifest, cache):
    rows = [GateRow("again", Chroma(), ["chroma"]), GateRow("chroma", Chroma())]
    again = run_gate(rows, manifest, cache, CRITERIA, resamples=20)
    assert again.as_dict() == {**report.as_dict(), "scores": again.as_dict()["scores"]}
    assert again.scores == report.scores
    assert report.as_dict()["data_sha256"] == manifest.card["manifest_sha256"]
    assert report.clips == (12, 6)


def test_the_test_split_is_never_read(manifest, cache):
    tracks = tuple(track for track in manifest.tracks if track.split != "test")
    without = run_gate([GateRow("chroma", Chroma())], replace(manifest, tracks=tracks), cache, resamples=2)
    assert without.clips == (12, 6)


def test_a_report_is_printed_in_every_form(report, capsys):
    print_gate(report, "json")
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False
    assert [criterion["passed"] for criterion in found["criteria"]] == [True, False, True, False]
    assert set(found["scores"]["chroma"]) == {"key_accuracy", "key_score", "instrument_map", "note_ap"}
    for style in ("table", "markdown", "csv"):
        print_gate(report, style)
        text = capsys.readouterr().out
        assert [text.count(word) for word in ("PASS", "FAIL", "missed")] == [2, 1, 1]
        assert "+0.001" in text


@pytest.mark.parametrize(
    ("rows", "criteria", "message"),
    [
        ([], (), "different names"),
        ([GateRow("a", Chroma()), GateRow("a", LogMel())], (), "different names, got a, a"),
        ([GateRow("a", Chroma())], (Criterion("b", "note_ap", 0.1),), "no row 'b' among a"),
        (
            [GateRow("a", Chroma())],
            (Criterion("a", "note_ap", 0.1, over="c"),),
            "a note_ap over c: there is no row 'c'",
        ),
        ([GateRow("a", Chroma(), ["logmel"])], (), "no stream 'logmel' among chroma"),
    ],
)
def test_mistakes_are_named_before_anything_is_extracted(manifest, cache, rows, criteria, message):
    with pytest.raises(ConfigError, match=message):
        run_gate(rows, manifest, cache, criteria)
