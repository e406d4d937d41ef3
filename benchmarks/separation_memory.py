"""What the full-size HTDemucs takes to separate a song: peak memory, which may not grow with the song, and time.

Each song is noise in a stereo WAV at 44.1 kHz, separated as `sonido-bench predict` does it, in a process of its own
whose peak resident size is printed. Weights are random, which cost the same.

python -m benchmarks.separation_memory [--features] [--threads 2] [--quick]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from sonido_bench.audio import write_audio
from sonido_bench.foundation.catalogue import load_extractor
from sonido_bench.launch.prediction import predict
from sonido_bench.tasks.htdemucs import HTDemucsTask

RATE = 44100
GOAL_GIBIBYTES = 6.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", action="store_true", help="with the features of sonido-tiny")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="songs of 10 and 20 s instead of 0.5 and 4 minutes")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        separate(arguments.measure, arguments.features)
        return
    print("| minutes of song | peak GiB | wall s | x real time |\n| --- | --- | --- | --- |")
    peaks = []
    for seconds in (10, 20) if arguments.quick else (30, 240):
        start = time.perf_counter()
        peaks.append(peak_of_process(seconds, arguments.threads, arguments.features))
        wall = time.perf_counter() - start
        print(f"| {seconds / 60:.2g} | {peaks[-1]:.2f} | {wall:.0f} | {seconds / wall:.2f} |", flush=True)
    print(f"\ngoal: at most {GOAL_GIBIBYTES:g} GiB; the longer song takes {peaks[1] / peaks[0]:.2f} times the memory")


def peak_of_process(seconds: int, threads: int, features: bool) -> float:
    """GiB of a process that separates a song, all that it imports included."""
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder) / "song.wav"
        write_audio(song, 0.1 * torch.randn(2, seconds * RATE), RATE)
        command = [sys.executable, "-m", "benchmarks.separation_memory", "--measure", song, "--threads", str(threads)]
        command += ["--features"] if features else []
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def separate(song: Path, features: bool) -> None:
    """Separate a song into a folder beside it and print the peak of this process, in GiB."""
    torch.manual_seed(0)
    task = HTDemucsTask(load_extractor("sonido-tiny") if features else None).eval()
    predict(task, song, song.parent / "stems")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


if __name__ == "__main__":
    main()
