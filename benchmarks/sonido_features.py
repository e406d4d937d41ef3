"""How fast SoniDo's features are, and that their memory does not grow with the length of the audio.

Speed is seconds of audio per second, on so many threads, best of several passes. Memory is the peak resident size of
a process of its own that reads a file of 1 or of 10 minutes and extracts its features; their ratio is to be 1.2 at
most. Without a checkpoint, the preset is built with random weights, which cost the same.

python benchmarks/sonido_features.py [--checkpoint FOLDER] [--quick]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from sonido_bench.audio import read_audio, to_mono, write_audio
from sonido_bench.foundation.card import ModelCard
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.sonido.config import load_config
from sonido_bench.foundation.sonido.extractor import SonidoExtractor
from sonido_bench.foundation.sonido.model import Sonido

PRESET = Path(__file__).parents[1] / "configs" / "foundation" / "sonido-tiny.yaml"
CARD = ModelCard("random", "Random weights.", "none", "None.", "", "None.", {}, {}, "None.")
GOAL_SPEED, GOAL_RATIO = 60.0, 1.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder of a model (default: the preset, random weights)")
    parser.add_argument("--threads", type=int, default=2, help="of the speed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one pass, and 2.5 minutes instead of 10")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(peak_mebibytes(arguments.checkpoint, arguments.measure, arguments.threads))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = arguments.checkpoint or random_checkpoint(folder / "model")
        report_speed(SonidoExtractor(checkpoint), arguments.threads, passes=1 if arguments.quick else 5)
        report_memory(checkpoint, folder, 2.5 if arguments.quick else 10.0, arguments.threads)


def report_speed(extractor: SonidoExtractor, threads: int, passes: int) -> None:
    torch.set_num_threads(threads)
    audio = 0.1 * torch.randn(1, 60 * extractor.spec.sample_rate)
    wall, cpu = min(timed(extractor, audio) for _ in range(passes))
    streams = ", ".join(f"{name} {s.dim} wide" for name, s in extractor.spec.streams.items())
    print(f"{extractor.card.name}: {streams}")
    print(f"{60 / wall:.0f} x real time on {threads} threads (goal {GOAL_SPEED:.0f}), {60 / cpu:.0f} per CPU second")


def timed(extractor: SonidoExtractor, audio: torch.Tensor) -> tuple[float, float]:
    """Wall and CPU seconds of one pass."""
    wall, cpu = time.perf_counter(), time.process_time()
    extractor.extract(audio)
    return time.perf_counter() - wall, time.process_time() - cpu


def report_memory(checkpoint: Path, folder: Path, minutes: float, threads: int) -> None:
    short, long = (peak_of_process(checkpoint, folder, length, threads) for length in (1.0, minutes))
    ratio = long / short
    print(
        f"peak memory: {short:.0f} MiB for 1 min, {long:.0f} MiB for {minutes:g} min: {ratio:.2f} (goal {GOAL_RATIO})"
    )


def peak_of_process(checkpoint: Path, folder: Path, minutes: float, threads: int) -> float:
    rate = SonidoExtractor(checkpoint).spec.sample_rate
    path = folder / f"{minutes:g}.wav"
    write_audio(path, 0.1 * torch.randn(1, round(60 * minutes * rate)), rate)
    command = [sys.executable, __file__, "--measure", path, "--checkpoint", checkpoint, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_mebibytes(checkpoint: Path, path: Path, threads: int) -> float:
    torch.set_num_threads(threads)
    extractor = SonidoExtractor(checkpoint)
    extractor.extract(to_mono(read_audio(path)[0]).unsqueeze(0))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def random_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(folder, Sonido(load_config(PRESET)), CARD)
    return folder


if __name__ == "__main__":
    main()
