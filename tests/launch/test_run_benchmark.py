"""The main job, whole: run, resume, refuse. One benchmark of seconds serves all tests of this file."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sonido_bench.benchmark.evaluation import Evaluation
from sonido_bench.benchmark.results import load_results
from sonido_bench.cli import main

TINY = Path(__file__).with_name("tiny.yaml")
EXPERIMENTS = 12


def arguments(folder: Path, results: str, benchmark: Path = TINY) -> list[str]:
    places = ["--results", str(folder / results), "--data", str(folder / "data"), "--cache", str(folder / "cache")]
    return ["run", str(benchmark), *places, "--workers", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the tiny benchmark was run without interruption."""
    path = tmp_path_factory.mktemp("benchmark")
    assert main(arguments(path, "whole")) == 0
    return path


def outcomes(results: Path):
    """What must not depend on how a benchmark was run: everything but cost and environment."""
    return [
        (r.experiment, r.config_sha256, r.data, r.history, r.best_step, r.values, r.items, r.parameters)
        for r in load_results(results)
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_run_leaves_results_tables_and_a_report(folder):
    results = folder / "whole"
    assert len(load_results(results)) == EXPERIMENTS
    assert json.loads((results / "leaderboard.json").read_text())["schema"] == 1
    assert "chroma" in (results / "leaderboard.md").read_text()
    page = (results / "report" / "index.html").read_text()
    assert "data:audio/ogg;base64," in page


def test_the_leaderboard_scores_items_as_the_task_did(folder):
    evaluation = Evaluation.bootstrap(resamples=2, seed=0)
    for result in load_results(folder / "whole"):
        recomputed = {metric.name: evaluation.scores(result, metric)[0] for metric in result.metrics}
        assert recomputed == pytest.approx(result.values, abs=1e-6)


def test_a_second_run_changes_nothing(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in (folder / "whole" / "runs").iterdir()}
    assert main(arguments(folder, "whole")) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "whole" / "runs").iterdir()} == before
    assert f"all {EXPERIMENTS} experiments have a result" in capsys.readouterr().err


def test_kill_9_loses_at_most_the_run_in_hand(folder):
    command = [sys.executable, "-m", "sonido_bench", *arguments(folder, "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    runs = folder / "killed" / "runs"
    while not list(runs.glob("*.json")):
        assert process.poll() is None, "ended before its first result"
        time.sleep(0.05)
    time.sleep(random.uniform(0, 0.5))
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "workers outlive the killed parent"
        time.sleep(0.1)
    survivors = len(load_results(folder / "killed"))
    assert 1 <= survivors <= EXPERIMENTS
    assert main(arguments(folder, "killed")) == 0
    assert outcomes(folder / "killed") == outcomes(folder / "whole")


def test_results_of_another_configuration_are_not_mixed(folder, tmp_path, capsys):
    other = tmp_path / "tiny.yaml"
    other.write_text(TINY.read_text().replace("width: 16", "width: 8"))
    before = outcomes(folder / "whole")
    assert main(arguments(folder, "whole", other)) == 1
    error = capsys.readouterr().err
    assert "another model" in error
    assert "--results" in error
    assert outcomes(folder / "whole") == before


def test_a_truncated_audio_file_is_named_and_nothing_is_lost(folder, tmp_path, capsys):
    shutil.copytree(folder / "data", tmp_path / "data")
    shutil.copytree(folder / "whole", tmp_path / "results")
    for result in list((tmp_path / "results" / "runs").glob("key-*"))[:1]:
        result.unlink()
    victim = next((tmp_path / "data").glob("*/test/*.flac"))
    victim.write_bytes(victim.read_bytes()[:2000])
    assert main(arguments(tmp_path, "results")) == 1
    error = capsys.readouterr().err
    assert victim.name in error
    assert len(load_results(tmp_path / "results")) == EXPERIMENTS - 1


def test_a_result_of_another_schema_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder / "whole" / "runs", tmp_path / "runs")
    path = next((tmp_path / "runs").iterdir())
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    assert main(["leaderboard", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert path.name in error
    assert "schema 99, expected 1" in error
    assert len(error.splitlines()) == 1


def test_an_unwritable_results_folder_is_one_line(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = arguments(folder, "whole")
    command[command.index("--results") + 1] = str(tmp_path / "file" / "results")
    assert main(command) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_misspelt_option_of_a_class_is_wrong_usage(folder, tmp_path, capsys):
    other = tmp_path / "tiny.yaml"
    other.write_text(TINY.read_text().replace("width: 16", "widht: 16"))
    assert main(arguments(folder, "typo", other)) == 2
    error = capsys.readouterr().err
    assert "no option 'widht'" in error
    assert not (folder / "typo").exists()


def test_data_are_listed_and_verified(folder, capsys):
    assert main(["data", "list", str(TINY), "--data", str(folder / "data"), "--format", "json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["name"], row["prepared"], row["train"]) == ("rendered", "yes", 8)
    assert main(["data", "verify", str(TINY), "--data", str(folder / "data")]) == 0


def test_compare_status_and_json_leaderboard(folder, capsys, tmp_path):
    results = folder / "whole"
    assert main(["compare", str(results), "--task", "key", "--plot", str(tmp_path / "items.png")]) == 0
    assert (tmp_path / "items.png").stat().st_size > 1000
    capsys.readouterr()
    assert main(["status", str(TINY), "--results", str(results), "--format", "json"]) == 0
    assert all(row["done"] == row["total"] == 2 for row in json.loads(capsys.readouterr().out)["rows"])
    assert main(["leaderboard", str(results), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["task"], row["arm"]) for row in rows] == [
        ("instruments", "chroma"),
        ("key", "chroma"),
        ("transcription", "chroma"),
    ]
    assert main(["compare", str(results), "--task", "kye"]) == 2
