"""The folders at the top level are part of the package through tracked links, and are nothing by themselves."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["tasks", "datamodules", "checkpoints", "configs"])
def test_link_is_tracked_relative_and_resolves(name):
    link = f"sonido_bench/{name}"
    tracked = subprocess.run(
        ["git", "ls-files", "--stage", link], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert tracked.startswith("120000 "), "a link in git's index, not a copy"
    assert os.readlink(ROOT / link) == f"../{name}"
    assert (ROOT / link).resolve() == ROOT / name
    assert (ROOT / link).is_dir()


@pytest.mark.parametrize("name", ["tasks", "datamodules"])
def test_import_by_the_folders_own_name_is_refused(name):
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(f"ImportError: import sonido_bench.{name}, not {name}\n")


@pytest.mark.parametrize("name", ["tasks", "datamodules"])
def test_package_finds_the_folder(name):
    spec = importlib.util.find_spec(f"sonido_bench.{name}")
    assert Path(spec.origin).resolve() == ROOT / name / "__init__.py"
