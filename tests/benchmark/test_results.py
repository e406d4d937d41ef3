import json
from dataclasses import replace

import pytest

from sonido_bench.benchmark.results import load_result, load_results, result_path, save_result
from sonido_bench.errors import ResultError
from tests.benchmark.fabricate import make_result


@pytest.fixture
def saved(tmp_path):
    return save_result(tmp_path, make_result("transcription", "tiny"))


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_result_survives_the_disk(tmp_path):
    result = make_result("instruments", "tiny@random", 0.1, 3)
    assert load_result(save_result(tmp_path, result)) == result


def test_results_are_sorted_by_experiment(tmp_path):
    results = [make_result("key", arm, seed=seed) for arm in ("tiny", "none") for seed in (1, 0)]
    for result in results:
        save_result(tmp_path, result)
    assert load_results(tmp_path) == sorted(results, key=lambda result: result.experiment)


def test_a_file_that_was_being_written_by_a_killed_process_is_passed_over(tmp_path, saved):
    (saved.parent / f".{saved.stem}.x1y2.json").write_text('{"schema": 1, "exper')
    assert len(load_results(tmp_path)) == 1


def test_truncated(saved):
    saved.write_text(saved.read_text()[:300])
    with pytest.raises(ResultError, match="cannot read result") as error:
        load_result(saved)
    assert saved.name in str(error.value)
    assert "\n" not in str(error.value)


def test_not_text(saved):
    saved.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match="cannot read result"):
        load_result(saved)


@pytest.mark.parametrize("schema", [0, 2, None, "1"])
def test_another_schema(saved, schema):
    change(saved, schema=schema)
    with pytest.raises(ResultError, match=f"has result schema {schema}, expected 1") as error:
        load_result(saved)
    assert "\n" not in str(error.value)


def test_json_that_is_no_result(saved):
    saved.write_text("[1, 2]")
    with pytest.raises(ResultError, match="has result schema None"):
        load_result(saved)


@pytest.mark.parametrize("field", ["experiment", "items", "metrics", "values", "cost"])
def test_a_missing_field(saved, field):
    raw = json.loads(saved.read_text())
    del raw[field]
    saved.write_text(json.dumps(raw))
    with pytest.raises(ResultError, match=f"is not a whole result.*{field}") as error:
        load_result(saved)
    assert "\n" not in str(error.value)


def test_a_missing_inner_field_and_a_wrong_type(saved):
    change(saved, cost={"wall_seconds": 1.0})
    with pytest.raises(ResultError, match="cpu_seconds"):
        load_result(saved)
    change(saved, cost="much")
    with pytest.raises(ResultError, match="is not a whole result"):
        load_result(saved)


def test_no_results(tmp_path):
    with pytest.raises(ResultError, match="no results in"):
        load_results(tmp_path)


def test_nan_is_not_written(tmp_path):
    result = replace(make_result(), values={"accuracy": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_result(tmp_path, result)
    assert not result_path(tmp_path, result.experiment).exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("a file is in the way")
    with pytest.raises(ResultError, match="cannot write"):
        save_result(tmp_path, make_result())
