import sys
import time

import numpy as np
import pytest

from sonido_bench.benchmark.meter import Meter


def test_wall_clock_and_cpu_are_told_apart():
    with Meter() as meter:
        time.sleep(0.2)
    assert meter.cost.wall_seconds >= 0.2
    assert meter.cost.cpu_seconds < 0.15


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset through /proc")
def test_peak_memory_is_that_of_the_block_alone():
    with Meter() as large:
        np.ones(30_000_000).sum()  # 240 MB
    with Meter() as small:
        np.ones(1_000).sum()
    assert large.cost.peak_memory_bytes - small.cost.peak_memory_bytes > 200e6
