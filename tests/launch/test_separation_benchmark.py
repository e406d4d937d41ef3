"""A benchmark whose tasks have data of their own, two of them with audio as their result."""

import json
from pathlib import Path

import pytest
import soundfile
import yaml

from sonido_bench.benchmark.config import load_benchmark
from sonido_bench.benchmark.evaluation import Evaluation
from sonido_bench.benchmark.results import load_results
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.cli import main
from sonido_bench.launch.local import run_benchmark

BENCHMARK = Path(__file__).with_name("separation.yaml")


def arguments(folder: Path, benchmark: Path = BENCHMARK) -> list[str]:
    places = ["--results", str(folder / "results"), "--data", str(folder / "data"), "--cache", str(folder / "cache")]
    return ["run", str(benchmark), *places, "--workers", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("separation")
    assert main(arguments(path)) == 0
    return path


@pytest.fixture(scope="module")
def results(folder):
    return {(each.experiment.task, each.experiment.arm): each for each in load_results(folder / "results")}


def test_every_task_has_its_results(results):
    assert set(results) == {(task, arm) for task in ("umx", "htdemucs", "key") for arm in ("none", "chroma")}
    evaluation = Evaluation.bootstrap(resamples=2, seed=0)
    for (task, arm), result in results.items():
        recomputed = {metric.name: evaluation.scores(result, metric)[0] for metric in result.metrics}
        assert recomputed == pytest.approx(result.values, abs=1e-6)
        if task != "key":
            assert [metric.name for metric in result.metrics] == ["usdr", "csdr"]
            assert result.items.names == ["test-00000", "test-00001"]
            assert "val/usdr" in result.history[0]
            assert (result.parameters.trained > results[task, "none"].parameters.trained) == (arm == "chroma")
            assert result.parameters.total == result.parameters.trained  # an average of the weights is none of them
    data = {task: results[task, "none"].data["sha256"] for task in ("umx", "htdemucs", "key")}
    assert data["umx"] == data["htdemucs"] != data["key"]


def test_each_task_records_its_own_data(results):
    segments = {task: results[task, "none"].config["data"]["init_args"].get("segment_seconds") for task, _ in results}
    assert segments == {"umx": None, "htdemucs": 1.0, "key": None}
    assert results["key", "none"].config["data"]["class_path"].endswith("RenderedDataModule")


def test_a_task_has_a_grid_of_its_own(results, capsys):
    grid = {(task, run.experiment.fraction, run.experiment.seed) for (task, _), run in results.items()}
    assert grid == {("umx", 1.0, 0), ("htdemucs", 0.7, 3), ("key", 1.0, 0)}
    assert all({"fractions", "seeds"}.isdisjoint(run.config) for run in results.values())
    selection = ["--tasks", "key", "--fractions", "0.7"]
    assert main(["run", str(BENCHMARK), *selection]) == 2
    assert "nothing is left of the grid" in capsys.readouterr().err


def test_data_lie_where_they_are_wanted(folder, capsys):
    assert len(list((folder / "data").glob("*/manifest*"))) >= 2
    assert main(["data", "list", str(BENCHMARK), "--data", str(folder / "data"), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["train"], row["prepared"]) for row in rows] == [(3, "yes"), (4, "yes")]
    assert main(["data", "verify", str(BENCHMARK), "--data", str(folder / "data")]) == 0


def test_nothing_is_left_to_do(folder, capsys):
    assert main(arguments(folder)) == 0
    assert "all 6 experiments have a result" in capsys.readouterr().err
    assert main(["status", str(BENCHMARK), "--results", str(folder / "results"), "--format", "json"]) == 0
    assert {row["done"] for row in json.loads(capsys.readouterr().out)["rows"]} == {1}
    assert main(["networks", str(BENCHMARK)]) == 0


def test_the_report_plays_what_went_in_was_wanted_and_came(folder, results):
    example = results["umx", "chroma"].items.examples["test-00000"]
    assert list(example["estimate"]) == list(example["reference"]) == ["vocals", "drums", "bass", "other"]
    files = [example["input"], *example["reference"].values(), *example["estimate"].values()]
    for file in files:
        info = soundfile.info(folder / "results" / "examples" / file)
        assert (info.samplerate, info.channels) == (44100, 2)
        assert info.duration == pytest.approx(2.0, abs=0.01)
    page = (folder / "results" / "report" / "index.html").read_text()
    assert 'aria-label="chroma: vocals of test-00000"' in page
    assert page.count("<audio") == 2 * 2 * (1 + 4 + 2 * 4) + 2  # tasks, tracks, sounds; clips of the key task
    assert "no recording" not in page


def test_a_data_set_that_changes_its_audio_is_refused_before_anything_is_made(tmp_path, capsys):
    raw = yaml.safe_load(BENCHMARK.read_text())
    raw["tasks"]["umx"]["data"] = {"init_args": {"augmentation": {"random_tracks": True}}}
    path = tmp_path / "augmented.yaml"
    path.write_text(yaml.safe_dump(raw))
    assert main(arguments(tmp_path, path)) == 2
    error = capsys.readouterr().err
    assert "cached features cannot serve this data set" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_run_benchmark_gives_the_data_set_of_each_task(folder):
    workspace = Workspace(folder / "results", folder / "cache", folder / "data")
    data = run_benchmark(load_benchmark(str(BENCHMARK)), workspace, workers=1)
    assert {name: each.classes for name, each in data.items() if name != "key"} == dict.fromkeys(
        ("umx", "htdemucs"), ("vocals", "drums", "bass", "other")
    )
