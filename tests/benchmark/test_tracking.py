import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.results import Cost, Items, Parameters, Result
from sonido_bench.benchmark.tracking import NoTracker, WandbTracker, log_leaderboard, make_tracker
from sonido_bench.errors import ConfigError
from sonido_bench.metrics.metric import Metric

EXPERIMENT = Experiment("key", "tagger", "rendered", "convnet@random", 0.1, 3)
HISTORY = [{"step": 20, "val/loss": 1.5, "val/accuracy": 0.25}, {"step": 40, "val/loss": 0.5, "val/accuracy": 0.75}]
ROWS = [{"task": "key", "boost": 0.125, "higher_is_better": True}, {"task": "key", "boost": None, "p_holm": 0.5}]

WORKER = """
import os, signal, sys
from pathlib import Path
from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.tracking import make_tracker
tracker = make_tracker("offline", Path(sys.argv[1]), "quick")
tracker.start(Experiment("key", "tagger", "rendered", "none", 1.0, 0), {})
tracker.log(1, {"val/loss": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def no_account(tmp_path, monkeypatch):
    """Keep the machine's own W&B settings, key and network out of the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture
def result() -> Result:
    return Result(
        experiment=EXPERIMENT,
        config_sha256="0" * 64,
        config={"optimizer": {"lr": 0.001}, "layers": [1, 2]},
        extractor={"name": "convnet@random", "sha256": "1" * 64},
        data={"name": "rendered", "version": "1"},
        environment={"python": "3.11"},
        cost=Cost(12.5, 11.25, 2**30),
        parameters=Parameters(1000, 900, 5000),
        history=HISTORY,
        best_step=40,
        metrics=(Metric("accuracy"), Metric("map", "average_precision")),
        values={"accuracy": 0.5, "map": 0.625},
        items=Items(["a", "b"], {"accuracy": [1.0, 0.0]}, [[1.0, 0.0], [0.0, 1.0]], [[0.75, 0.25], [0.5, 0.5]]),
    )


def read_records(path: Path) -> Iterator[object]:
    """Read a ``.wandb`` file: a LevelDB log of protobuf records, each in one or more chunks of a 32 KiB block."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw = path.read_bytes()
    assert raw[:4] == b":W&B"
    assert struct.unpack("<H", raw[4:6]) == (0xBEE1,)
    position, record = 7, b""
    while position + 7 <= len(raw):
        if (left := 32_768 - position % 32_768) < 7:  # too short for a chunk's header: padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, position)
        record += raw[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or last
            yield Record.FromString(record)
            record = b""


def unfold(items) -> dict:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read_run(folder: Path) -> dict:
    """Return what a finished offline run holds, as the server would see it."""
    found: dict = {"history": [], "summary": {}, "config": {}, "exit": None, "folder": folder}
    (log,) = folder.glob("run-*.wandb")
    for record in read_records(log):
        match record.WhichOneof("record_type"):
            case "run":
                found["run"] = record.run
                found["config"] |= unfold(record.run.config.update)
            case "config":
                found["config"] |= unfold(record.config.update)
            case "history":
                found["history"].append(unfold(record.history.item))
            case "summary":
                found["summary"] |= unfold(record.summary.update)
            case "exit":
                found["exit"] = record.exit.exit_code
    return found


def runs(folder: Path) -> list[Path]:
    """Return the runs in a folder, once wandb's own process, which writes them, has ended."""
    import wandb

    wandb.teardown()
    return sorted((folder / "wandb").glob("offline-run-*"))


def read_table(run: dict, key: str) -> dict:
    summary = run["summary"]
    path = summary[key]["path"] if key in summary else summary[f"{key}/path"]  # set there, or left by the history
    return json.loads((run["folder"] / "files" / path).read_text())


def test_disabled_is_the_default_and_does_not_import_wandb(tmp_path):
    code = (
        "import sys; from pathlib import Path; import sonido_bench.benchmark.tracking as t;"
        "tracker = t.make_tracker('disabled', Path('nowhere'), 'quick');"
        "tracker.log(1, {'val/loss': 1.0}); t.log_leaderboard('disabled', Path('nowhere'), 'quick', [], []);"
        "print(type(tracker).__name__, 'wandb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["NoTracker", "False"]


def test_an_offline_run_reads_back(tmp_path, result, capfd):
    tracker = make_tracker("offline", tmp_path / "new" / "quick", "quick")
    tracker.start(EXPERIMENT, result.config)
    for entry in HISTORY:
        tracker.log(int(entry["step"]), {name: value for name, value in entry.items() if name != "step"})
    tracker.finish(result)

    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    (folder,) = runs(tmp_path / "new" / "quick")
    run = read_run(folder)
    assert run["run"].display_name == "key/convnet@random/0.1/3"
    assert run["run"].run_group == "quick"
    assert run["run"].job_type == "key"
    assert run["run"].project == "sonido-bench"
    assert set(run["run"].tags) == {"key", "tagger", "rendered", "convnet@random"}
    assert run["config"]["optimizer"] == {"lr": 0.001}
    assert run["config"]["layers"] == [1, 2]
    assert run["config"]["experiment"] == EXPERIMENT.as_dict()
    rows = [{"step": row["_step"], **{k: v for k, v in row.items() if k.startswith("val/")}} for row in run["history"]]
    assert rows == HISTORY
    expected = {
        "test/accuracy": 0.5,
        "test/map": 0.625,
        "best_step": 40,
        "cost/wall_seconds": 12.5,
        "cost/cpu_seconds": 11.25,
        "cost/peak_memory_bytes": 2**30,
        "parameters/total": 1000,
        "parameters/trained": 900,
        "parameters/extractor": 5000,
    }
    assert {name: run["summary"][name] for name in expected} == expected
    assert run["exit"] == 0
    table = read_table(run, "test/items")
    assert table["columns"] == ["clip", "accuracy", "target", "prediction"]
    assert table["data"] == [["a", 1.0, [1.0, 0.0], [0.75, 0.25]], ["b", 0.0, [0.0, 1.0], [0.5, 0.5]]]


def test_nothing_but_wandbs_own_log_lies_outside_the_folder(tmp_path, result):
    tracker = WandbTracker("offline", tmp_path / "quick", "quick")
    tracker.start(EXPERIMENT, {})
    tracker.finish(result)
    assert len(runs(tmp_path / "quick")) == 1
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.parent.name != "logs"] == []


def test_a_run_left_open_is_closed_as_failed(tmp_path, result):
    tracker = make_tracker("offline", tmp_path, "quick")
    tracker.start(EXPERIMENT, {})
    tracker.log(5, {"val/loss": 1.0})
    tracker.start(EXPERIMENT.baseline, {})
    tracker.finish(result)
    exits = {run["run"].display_name: run["exit"] for run in map(read_run, runs(tmp_path))}
    assert exits == {"key/convnet@random/0.1/3": 1, "key/none/0.1/3": 0}


def test_log_before_start_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(RuntimeError, match="call start first"):
        make_tracker("offline", tmp_path, "quick").log(1, {"val/loss": 1.0})


def test_killed_workers_leave_a_readable_folder(tmp_path, result):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)]) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [-signal.SIGKILL] * 2
    assert [read_run(folder)["exit"] for folder in runs(tmp_path)] == [None, None]

    tracker = make_tracker("offline", tmp_path, "quick")
    tracker.start(EXPERIMENT, {})
    tracker.finish(result)
    assert sum(read_run(folder)["exit"] == 0 for folder in runs(tmp_path)) == 1


def test_the_leaderboard_has_its_table_and_examples(tmp_path):
    clip = tmp_path / "boosted clip.wav"
    soundfile.write(clip, np.zeros(800, dtype=np.float32), 8000)
    log_leaderboard("offline", tmp_path, "quick", ROWS, [clip])
    (folder,) = runs(tmp_path)
    run = read_run(folder)
    assert (run["run"].display_name, run["run"].run_group) == ("leaderboard", "quick")
    table = read_table(run, "leaderboard")
    assert table["columns"] == ["task", "boost", "higher_is_better", "p_holm"]
    assert table["data"] == [["key", 0.125, True, None], ["key", None, None, 0.5]]
    assert run["summary"]["examples/captions"] == ["boosted clip"]
    (sound,) = (folder / "files" / "media" / "audio").glob("*.wav")
    assert sound.read_bytes() == clip.read_bytes()


@pytest.mark.parametrize("call", [make_tracker, lambda *where: log_leaderboard(*where, [], [])])
def test_mistakes_of_the_user(tmp_path, monkeypatch, call):
    with pytest.raises(ConfigError, match="disabled, offline, online, found 'offlin'"):
        call("offlin", tmp_path, "quick")
    with pytest.raises(ConfigError, match="needs a key; set WANDB_API_KEY"):
        call("online", tmp_path, "quick")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        call("offline", tmp_path, "quick")
    assert not (tmp_path / "wandb").exists()


def test_a_server_out_of_reach_is_said_before_training(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sonido_bench.benchmark.tracking import make_tracker\n"
        "try: make_tracker('online', Path(sys.argv[1]), 'quick')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    # A closed port of this machine answers at once; a server without a route may take wandb minutes.
    # In a process of its own, as wandb remembers a key as long as its process lives.
    key = {"WANDB_API_KEY": "0" * 40, "WANDB_HTTP_TIMEOUT": "1", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    try:
        done = subprocess.run(command, env=os.environ | key, capture_output=True, timeout=120)
        out, err = done.stdout.decode(), done.stderr.decode()
    except subprocess.TimeoutExpired as late:  # on a busy machine wandb's service, left with the request, may not end
        out, err = (late.stdout or b"").decode(), (late.stderr or b"").decode()
    assert out.startswith("ConfigError cannot log in to W&B: ")
    assert "use the mode `offline`" in out
    assert "WANDB_API_KEY" not in out + err  # wandb itself is silent


def test_no_tracker_accepts_a_whole_run(result):
    tracker = NoTracker()
    assert tracker.start(EXPERIMENT, {}) is tracker.log(1, {"val/loss": 1.0}) is tracker.finish(result) is None
