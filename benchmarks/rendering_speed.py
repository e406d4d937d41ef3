"""How fast the embedded data are made: seconds of music per CPU second, one process, everything included.

Run: python benchmarks/rendering_speed.py [--tracks 40] [--seconds 6] [--stems]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from sonido_bench.datamodules.rendering.dataset import RenderedConfig, prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--stems", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder) / "warm_up", RenderedConfig(seed=1, seconds=1, train=1, validation=0, test=0))
        config = RenderedConfig(
            seconds=arguments.seconds, train=arguments.tracks, validation=0, test=0, stems=arguments.stems
        )
        wall, cpu = time.perf_counter(), time.process_time()
        prepare(Path(folder) / "timed", config)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    music = arguments.tracks * arguments.seconds
    print(
        json.dumps(
            {
                "music_seconds": music,
                "stems": arguments.stems,
                "cpu_seconds": round(cpu, 2),
                "wall_seconds": round(wall, 2),
                "times_real_time_per_core": round(music / cpu, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
