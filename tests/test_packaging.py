"""What a user installs: the wheel that is built from a clean checkout, by way of the source distribution."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sonido_bench

ROOT = Path(__file__).parents[1]
SHIPPED_FOLDERS = ("tasks", "datamodules", "checkpoints", "configs")


def checkout_files() -> list[str]:
    """Return what a commit of the working tree would hold."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return sorted(name for name in listing.stdout.decode().split("\0") if name and os.path.lexists(ROOT / name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build source distribution and wheel from a copy of the checkout, links kept, without a network."""
    folder = tmp_path_factory.mktemp("build")
    for name in checkout_files():
        copy = folder / "checkout" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), "checkout"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, stdin=subprocess.DEVNULL)
    return target


@pytest.fixture
def hostile(tmp_path) -> Path:
    """Return a user's project whose own packages have our folders' names, and raise."""
    for name in SHIPPED_FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f'raise RuntimeError("the user\'s own {name}")\n')
    return tmp_path


def run_installed(arguments: list[str], installed: Path, project: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{project}"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def test_wheel_holds_every_shipped_file_and_only_them(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in checkout_files() if name.startswith("sonido_bench/") and (ROOT / name).is_file()}
    linked = {f"sonido_bench/{name}" for name in checkout_files() if name.split("/")[0] in SHIPPED_FOLDERS}
    info = f"sonido_bench-{sonido_bench.__version__}.dist-info"
    assert {name for name in names if not name.startswith(f"{info}/")} == package | linked


def test_wheel_holds_each_kind_of_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "sonido_bench/py.typed",
        "sonido_bench/cli.py",
        "sonido_bench/tasks/__init__.py",
        "sonido_bench/datamodules/__init__.py",
        "sonido_bench/configs/benchmarks/quick.yaml",
        "sonido_bench/checkpoints/README.md",
    } <= names
    assert any(name.startswith("sonido_bench/benchmark/templates/") for name in names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_help_runs_beside_a_users_own_packages(installed, hostile):
    done = run_installed(["-m", "sonido_bench", "--help"], installed, hostile)
    assert done.returncode == 0, done.stderr
    assert "sonido-bench" in done.stdout


def test_our_packages_and_a_users_own_do_not_meet(installed, hostile):
    code = (
        "import sonido_bench.tasks as t, sonido_bench.datamodules as d; print(t.__file__); print(d.__file__);"
        "import tasks"
    )
    done = run_installed(["-c", code], installed, hostile)
    ours = installed / "sonido_bench"
    assert done.stdout.split() == [str(ours / "tasks" / "__init__.py"), str(ours / "datamodules" / "__init__.py")]
    assert done.stderr.endswith("RuntimeError: the user's own tasks\n")


def test_shipped_benchmark_is_found_outside_the_checkout(installed, hostile):
    code = "from sonido_bench.benchmark.config import load_benchmark; print(load_benchmark('quick').name)"
    done = run_installed(["-c", code], installed, hostile)
    assert done.stdout.strip() == "quick", done.stderr
