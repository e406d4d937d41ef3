import json
import shutil
import subprocess

from sonido_bench.benchmark import environment


def test_environment_is_json_and_names_versions():
    described = json.loads(json.dumps(environment.describe_environment()))
    assert set(described["packages"]) >= {"torch", "sonido-bench"}
    assert described["device"]


def test_the_commit_of_a_foreign_checkout_is_not_taken_for_ours(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    copy = tmp_path / "environment.py"
    shutil.copy(environment.__file__, copy)
    monkeypatch.setattr(environment, "__file__", str(copy))
    assert environment._git_commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-qm", "x"], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    assert environment._git_commit() == head
    copy.write_text("changed")
    assert environment._git_commit() == f"{head}+"
