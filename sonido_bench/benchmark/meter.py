"""What a stretch of code costs."""

import resource
import time
from pathlib import Path
from types import TracebackType

from sonido_bench.benchmark.results import Cost

__all__ = ["Meter"]

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """Measures wall clock, CPU seconds and peak resident memory of a ``with`` block, in this process.

    On Linux the kernel's high-water mark is reset on entry, so that a worker's earlier runs do not count; elsewhere
    the peak is that of the process so far.
    """

    cost: Cost

    def __enter__(self) -> "Meter":
        """Start measuring."""
        if CLEAR.exists():
            CLEAR.write_text("5")  # 5: reset the peak resident set size, see proc(5)
        self._wall, self._cpu = time.monotonic(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop measuring and set ``cost``."""
        self.cost = Cost(time.monotonic() - self._wall, time.process_time() - self._cpu, _peak_memory_bytes())


def _peak_memory_bytes() -> int:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
