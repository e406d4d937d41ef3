"""Time the leaderboard of 1,000 results with 500 items each, in a fresh process on one core.

Run from the repository: ``python -m benchmarks.leaderboard_speed``. A third of the results are multi-label with 12
classes. The time includes the start of Python, imports and reading JSON; torch must not be imported on the way.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sonido_bench.benchmark.results import save_result
from tests.benchmark.fabricate import make_benchmark

LEADERBOARD = """
import sys, time
started = time.perf_counter()
from pathlib import Path
from sonido_bench.benchmark.leaderboard import build_leaderboard
from sonido_bench.benchmark.results import load_results
from sonido_bench.benchmark.tables import leaderboard_json
imported = time.perf_counter()
results = load_results(Path(sys.argv[1]))
read = time.perf_counter()
leaderboard_json(build_leaderboard(results))
done = time.perf_counter()
assert "torch" not in sys.modules
print(f"imports {imported - started:.2f} s, reading {read - imported:.2f} s, statistics {done - read:.2f} s")
"""


def main() -> None:
    arms = ("none", "a", "a@random", "a@tokenizer", "b", "b@random", "b@tokenizer", "c")
    tasks = ("key", "transcription", "instruments")
    fractions = (0.01, 0.03, 0.1, 0.3, 1.0)
    results = make_benchmark(tasks, arms, fractions, seeds=range(9), count=500, classes=12)[80:]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        for result in results:
            save_result(Path(folder), result)
        started = time.perf_counter()
        command = [sys.executable, "-c", LEADERBOARD, folder]
        run = subprocess.run(command, env={**os.environ, **threads}, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = children.ru_utime + children.ru_stime
    print(f"{len(results)} results x 500 items: {processor:.2f} s of CPU time, {seconds:.2f} s on the clock")
    print(run.stdout.strip())


if __name__ == "__main__":
    main()
