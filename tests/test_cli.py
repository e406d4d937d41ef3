import subprocess
import sys

import pytest

from sonido_bench.cli import main

COMMANDS = ["run", "leaderboard", "compare", "status", "data", "models", "networks", "extract", "check-extractor"]
COMMANDS += ["pretrain", "gate", "reconstruct", "generate", "predict"]


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom sonido_bench.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'lightning', 'scipy', 'matplotlib', 'wandb', 'pretty_midi'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(command in run.stdout for command in [*COMMANDS, "fit", "validate", "test"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "usage: sonido-bench" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nosuch.yaml"], "no benchmark file 'nosuch.yaml'"),
        (["run", "quick", "--tasks", "tepmo"], "unknown task 'tepmo'"),
        (["run", "quick", "--arms", "jukebox"], "unknown arm 'jukebox'"),
        (["check-extractor", "nosuch"], "nosuch"),
        (["pretrain", "nosuch"], "no pre-training 'nosuch'"),
        (["gate", "nosuch"], "no checkpoint 'nosuch'"),
        (["reconstruct", "x.wav", "-o", "out", "--checkpoint", "nosuch"], "no checkpoint 'nosuch'"),
        (["generate", "-o", "out"], "either seconds to sample, or tokens"),
        (["generate", "-o", "out", "--seconds", "1", "--top-p", "2"], "top_p must be in (0, 1]"),
        (["check-extractor", "nosuch:Class"], "nosuch"),
        (["extract", "x.wav", "-o", "out", "--extractor", "logmle"], "logmel"),
    ],
)
def test_wrong_usage_gives_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "quick", "--frction", "0.1"])
    assert end.value.code == 2


def test_missing_results_fail_with_advice(capsys, tmp_path):
    assert main(["leaderboard", str(tmp_path)]) == 1
    assert "sonido-bench run" in capsys.readouterr().err


def test_an_unreadable_benchmark_file_is_wrong_usage(capsys, tmp_path):
    (tmp_path / "b.yaml").write_text("tasks: [")
    assert main(["run", str(tmp_path / "b.yaml")]) == 2
    assert "not valid YAML" in capsys.readouterr().err
