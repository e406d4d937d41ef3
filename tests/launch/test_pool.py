import sys
from pathlib import Path

import pytest

from sonido_bench.launch.pool import JobFailedError, worker_pool

sys.path.insert(0, str(Path(__file__).parent))  # spawned workers inherit it, and so can import the jobs
from jobs import DieJob, FailJob, WriteJob


def test_a_failing_job_does_not_stop_the_others(tmp_path):
    done = []
    jobs = [WriteJob(tmp_path / "a"), FailJob(), WriteJob(tmp_path / "b")]
    with worker_pool(1) as pool, pytest.raises(JobFailedError, match=r"1 of 3 jobs failed.*fail: ValueError: as asked"):
        pool.run(jobs, done.append)
    assert sorted(done) == ["a", "b", "fail"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()  # one process did both


def test_a_process_that_dies_is_reported(tmp_path):
    with worker_pool(1) as pool, pytest.raises(JobFailedError, match="its process died"):
        pool.run([DieJob()], lambda label: None)
