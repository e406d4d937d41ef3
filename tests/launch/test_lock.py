import multiprocessing

import pytest

from sonido_bench.errors import ResultError
from sonido_bench.launch.lock import locked


def hold(folder, held, release):
    with locked(folder):
        held.set()
        release.wait(30)


def test_a_second_runner_is_refused_until_the_first_has_gone(tmp_path):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, release))
    other.start()
    assert held.wait(30)
    with pytest.raises(ResultError, match=f"process {other.pid} is running"), locked(tmp_path):
        pass
    other.kill()  # no clean-up: the kernel must let go
    other.join()
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_an_unwritable_folder_gives_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot write results to"), locked(tmp_path / "file" / "results"):
        pass
