"""What the feature cache saves: extraction against reading back, in CPU seconds of one thread.

OMP_NUM_THREADS=1 python benchmarks/feature_cache.py
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sonido_bench.audio import write_audio
from sonido_bench.clips import Clip
from sonido_bench.features.cache import FeatureCache
from sonido_bench.features.extractor import Extractor
from sonido_bench.files import sha256_file
from sonido_bench.foundation.chroma import Chroma
from sonido_bench.foundation.convnet import ConvNet
from sonido_bench.foundation.logmel import LogMel

SAMPLE_RATE = 22050


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200, help="number of clips (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a clip (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    extractors = {"logmel": LogMel(), "logmel, pool=16": LogMel(pool=16), "chroma": Chroma(), "convnet": ConvNet()}
    with tempfile.TemporaryDirectory() as folder:
        clips = [make_clip(Path(folder), index, arguments.seconds) for index in range(arguments.clips)]
        print(
            f"{len(clips)} clips of {arguments.seconds:g} s, 16-bit WAV at {SAMPLE_RATE} Hz, float16 cache, one thread"
        )
        print("x real time: extraction alone, clips of 6 s one by one")
        print(f"{'extractor':<16}{'x real time':>12}{'cold s':>9}{'cached s':>10}{'ratio':>7}{'MB':>8}{'estimate':>10}")
        for name, extractor in extractors.items():
            report(name, extractor, FeatureCache(Path(folder) / name), clips)


def report(name: str, extractor: Extractor, cache: FeatureCache, clips: list[Clip]) -> None:
    cold = cpu_seconds(lambda: cache.extract(extractor, clips))
    fingerprint = extractor.fingerprint()
    cached = min(cpu_seconds(lambda: list(cache.streams(fingerprint, clips).values())) for _ in range(3))
    size = sum(path.stat().st_size for path in cache.root.rglob("*.safetensors"))
    estimate = cache.estimate_bytes(extractor.spec, clips)
    print(
        f"{name:<16}{real_time_factor(extractor):>12.0f}{cold:>9.2f}{cached:>10.3f}{cold / cached:>7.0f}"
        f"{size / 1e6:>8.1f}{estimate / 1e6:>10.1f}"
    )


def real_time_factor(extractor: Extractor, seconds: float = 6.0) -> float:
    """Seconds of audio per CPU second, best of 10."""
    audio = torch.rand(1, round(seconds * SAMPLE_RATE)) - 0.5
    return seconds / min(cpu_seconds(lambda: extractor.extract(audio)) for _ in range(10))


def make_clip(folder: Path, index: int, seconds: float) -> Clip:
    """Decaying tones in noise, another for each clip."""
    generator = torch.Generator().manual_seed(index)
    times = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    frequency = 110 * 2 ** (torch.rand(1, generator=generator) * 4)
    tone = torch.sin(2 * torch.pi * frequency * times) * torch.exp(-4 * (times % 0.5))
    audio = 0.4 * tone + 0.01 * torch.randn(len(times), generator=generator)
    path = folder / f"{index}.wav"
    write_audio(path, audio[None], SAMPLE_RATE)
    return Clip(str(index), path, sha256_file(path), 0.0, seconds)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
