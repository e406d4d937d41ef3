"""How much faster cSDR is than museval, which computes the same SDR, and how far the two are apart.

One stereo track of noise with leakage, in the same run: CPU seconds of museval's v4 evaluation, which computes ISR, SIR
and SAR as well and cannot leave them out, and of ``csdr``. The cost of museval's filters grows with the cube of the
number of sources, so that the ratio is smaller in a quick run.

Run: OMP_NUM_THREADS=1 python benchmarks/separation_metrics.py [--quick] [--seconds 30] [--sources 4] [--rate 44100]
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sonido_bench.metrics.separation import bss_eval, csdr, frame_sdr, usdr

REPEATS = 5


def track(sources: int, samples: int) -> tuple[Any, Any]:
    """Stereo references and estimates of noise, float32, ``(sources, 2, samples)``."""
    generator = np.random.default_rng(0)
    references = 0.1 * generator.normal(size=(sources, 2, samples))
    leakage = np.eye(sources) + 0.1 * generator.normal(size=(sources, sources))
    estimates = np.einsum("ij,jct->ict", leakage, references) + 0.01 * generator.normal(size=references.shape)
    return references.astype(np.float32), estimates.astype(np.float32)


def cpu_seconds(compute: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The fastest of some repeats, and the result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = compute()
        times.append(time.process_time() - start)
    return min(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sources, 6 s: to see that it runs")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--sources", type=int, default=4)
    parser.add_argument("--rate", type=int, default=44_100)
    options = parser.parse_args()
    seconds, sources = (6.0, 2) if options.quick else (options.seconds, options.sources)
    references, estimates = track(sources, round(seconds * options.rate))
    bss_eval(references[:, :, :600], estimates[:, :, :600], 300)  # imports museval
    slow, ratios = cpu_seconds(lambda: bss_eval(references, estimates, options.rate), 1)
    fast, _ = cpu_seconds(lambda: csdr(references, estimates, options.rate), REPEATS)
    whole, _ = cpu_seconds(lambda: usdr(references, estimates), REPEATS)
    difference = np.abs(frame_sdr(references, estimates, options.rate) - ratios["sdr"]).max()
    figures = {
        "seconds": seconds,
        "sources": sources,
        "museval_cpu_seconds": round(slow, 2),
        "csdr_cpu_seconds": round(fast, 4),
        "usdr_cpu_seconds": round(whole, 4),
        "times_faster_than_museval": round(slow / fast),
        "largest_difference_db": float(difference),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
