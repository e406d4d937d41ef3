"""What an epoch of the tagger costs on cached features, and what extracting them costs once.

200 clips of 30 s, batches of 32, one thread: CPU seconds of an epoch (forward, backward, optimiser, data loading) in
Lightning's Trainer, of the baseline and of one arm; the median over epochs. Two taggers: the default one on tokens of
0.37 s, which is to cost 0.1 s at most, and that of the quick benchmark, whose finer tokens and width cost more.

Run: OMP_NUM_THREADS=1 python benchmarks/tagger_epoch.py [--clips 200] [--seconds 30] [--batch-size 32] [--epochs 15]
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from sonido_bench.audio import write_audio
from sonido_bench.benchmark.config import load_benchmark
from sonido_bench.benchmark.instantiate import build_task
from sonido_bench.clips import Clip
from sonido_bench.datamodules.base import ClipDataset, PairedBatchSampler, clip_loader
from sonido_bench.features.cache import FeatureCache
from sonido_bench.features.extractor import Extractor
from sonido_bench.foundation.convnet import ConvNet
from sonido_bench.foundation.logmel import LogMel
from sonido_bench.tasks import TaggingTask

CLASSES = 10


class EpochTimes(pl.Callback):
    """CPU seconds of every training epoch."""

    def __init__(self) -> None:
        self.start = 0.0
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.seconds.append(time.process_time() - self.start)


def noise_clips(folder: Path, clips: int, seconds: float) -> list[Clip]:
    """Clips of one file of noise; each has a checksum of its own, so that the cache extracts all of them."""
    path = folder / "noise.wav"
    write_audio(path, 0.1 * torch.randn(1, round(seconds * 22050)), 22050)
    return [Clip(f"clip{index}", path, f"{index:064x}", 0.0, seconds) for index in range(clips)]


def extract(cache: FeatureCache, extractor: Extractor, clips: list[Clip]) -> float:
    """CPU seconds of a cold extraction."""
    start = time.process_time()
    cache.extract(extractor, clips)
    return time.process_time() - start


def epoch_seconds(task: TaggingTask, loader: DataLoader[Any], epochs: int) -> float:
    """Median CPU seconds of an epoch, the first two left out."""
    times = EpochTimes()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[times],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, loader)
    return statistics.median(times.seconds[2:])


def default_tagger(extractor: Extractor | None) -> TaggingTask:
    """The tagger with default options, on statistics over 16 log-mel frames."""
    return TaggingTask(LogMel(pool=16), extractor, classes=CLASSES)


def quick_tagger(extractor: Extractor | None) -> TaggingTask:
    """The key tagger of the quick benchmark."""
    task: TaggingTask = build_task(load_benchmark("quick").tasks["key"], extractor)
    return task


def measure(
    tagger: Callable[[Extractor | None], TaggingTask],
    arm: Extractor,
    clips: list[Clip],
    cache: FeatureCache,
    options: Any,
) -> dict[str, Any]:
    """Cold and warm costs of a tagger without features and with those of an arm."""
    front_end = tagger(None).front_end
    dim = front_end.spec.streams["logmel"].dim
    figures: dict[str, Any] = {"tokens": [front_end.spec.frames("logmel", round(options.seconds * 22050)), dim]}
    figures["cold_cpu_seconds"] = round(extract(cache, front_end, clips), 2)
    for name, extractor in (("baseline", None), (arm.card.name, arm)):
        task = tagger(extractor)
        targets = torch.randint(len(task.classes), (len(clips),))
        if task.problem == "multilabel":
            targets = (torch.rand(len(clips), len(task.classes)) < 0.3).float()
        dataset = ClipDataset(clips, targets=targets)
        features = None if extractor is None else cache.streams(extractor.fingerprint(), clips)
        dataset.attach(cache.streams(front_end.fingerprint(), clips), features)
        sampler = PairedBatchSampler(len(dataset), options.batch_size, seed=0)
        seconds = epoch_seconds(task, clip_loader(dataset, options.batch_size, 0, sampler), options.epochs)
        figures[f"epoch_cpu_seconds_{name}"] = round(seconds, 4)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    arm = ConvNet()
    with tempfile.TemporaryDirectory() as folder:
        clips = noise_clips(Path(folder), options.clips, options.seconds)
        cache = FeatureCache(Path(folder) / "cache")
        print(
            json.dumps(
                {"clips": options.clips, f"cold_cpu_seconds_{arm.card.name}": round(extract(cache, arm, clips), 2)}
            )
        )
        for name, tagger in (("default", default_tagger), ("quick", quick_tagger)):
            print(json.dumps({"tagger": name, **measure(tagger, arm, clips, cache, options)}))


if __name__ == "__main__":
    main()
