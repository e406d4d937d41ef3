"""Jobs on this machine's processes."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol

from sonido_bench.errors import SonidoError

__all__ = ["Job", "JobFailedError", "WorkerPool"]


class Job(Protocol):
    """A picklable call with a name."""

    @property
    def label(self) -> str:
        """What the progress bar and an error message call it."""

    def __call__(self) -> None:
        """Do the work, leaving its outcome on disk."""


class JobFailedError(SonidoError):
    """A job raised, or its process died."""


class WorkerPool:
    """Processes that each run one job at a time, on one thread.

    The processes are started once, since importing torch and Lightning costs more than many a job. They end with this
    process, even when it is killed.
    """

    def __init__(self, workers: int) -> None:
        # spawn: a forked child inherits the threads' locks of torch, but not the threads
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)

    def run(self, jobs: Sequence[Job], done: Callable[[str], None]) -> None:
        """Run all jobs; ``done`` is called with the label of each as it ends.

        A job that fails does not stop the others.

        Raises:
            JobFailedError: After all have ended, if any of them failed; the message names the first.
        """
        futures = {self._executor.submit(job): job.label for job in jobs}
        failures: list[tuple[str, BaseException]] = []
        for future in as_completed(futures):
            if error := future.exception():
                failures.append((futures[future], error))
            done(futures[future])
        if failures:
            raise JobFailedError(_describe(failures, len(jobs))) from failures[0][1]

    def stop(self) -> None:
        """End the processes without waiting for the jobs in hand."""
        processes = list((self._executor._processes or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()  # not terminate: Lightning's trainer catches that, and finishes its epoch first


@contextmanager
def worker_pool(workers: int) -> Iterator[WorkerPool]:
    """Yield a pool that is stopped at the end, also by Ctrl-C."""
    pool = WorkerPool(workers)
    try:
        yield pool
    finally:
        pool.stop()


def _describe(failures: list[tuple[str, BaseException]], jobs: int) -> str:
    label, error = failures[0]
    if isinstance(error, BrokenProcessPool):
        reason = "its process died (out of memory, or killed)"
    else:
        reason = f"{type(error).__name__}: {error}"
    first = f"{len(failures)} of {jobs} jobs failed; the first was {label}: {reason}"
    return f"{first}. The others are kept; the same command resumes"


def _start_worker() -> None:
    """Prepare a worker process: one thread, quiet, deaf to Ctrl-C, and mortal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and stops the pool
    threading.Thread(target=_die_with_parent, daemon=True).start()
    warnings.filterwarnings("ignore")
    import lightning.pytorch  # sets the level of its own logger, hence before the next line
    import torch

    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(1)  # two threads that fight for a core are far slower than one


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        sys.stderr.flush()
        os._exit(1)
