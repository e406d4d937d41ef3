"""What the tests of every family's pre-training start from."""

import pytest

from tests.launch.pretraining_runs import run


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """A folder with the music, and in ``whole`` a run of the module's ``CONFIG`` without interruption."""
    path = tmp_path_factory.mktemp("pretraining")
    assert run(path, "whole", request.module.CONFIG)
    return path
