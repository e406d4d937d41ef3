"""What an epoch of the tagger costs on cached features, and what extracting them costs once.

200 clips of 30 s, batches of 32, one thread: CPU seconds of an epoch (forward, backward, optimiser, data loading) in
Lightning's Trainer, of the baseline and of one arm; the median over epochs. The target is 0.1 s at most.

Run: OMP_NUM_THREADS=1 python benchmarks/tagger_epoch.py [--clips 200] [--seconds 30] [--batch-size 32] [--epochs 15]
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from sonido_bench.audio import write_audio
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


def epoch_seconds(front_end: Extractor, extractor: Extractor | None, loader: DataLoader[Any], epochs: int) -> float:
    """Median CPU seconds of an epoch, the first two left out."""
    torch.manual_seed(0)
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
    trainer.fit(TaggingTask(front_end, extractor, classes=CLASSES), loader)
    return statistics.median(times.seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")

    front_end, arm = LogMel(pool=16), ConvNet()
    figures: dict[str, Any] = {"clips": arguments.clips, "tokens": [front_end.spec.frames("logmel", 22050 * 30), 384]}
    with tempfile.TemporaryDirectory() as folder:
        clips = noise_clips(Path(folder), arguments.clips, arguments.seconds)
        cache = FeatureCache(Path(folder) / "cache")
        for name, extractor in (("front_end", front_end), (arm.card.name, arm)):
            figures[f"cold_cpu_seconds_{name}"] = round(extract(cache, extractor, clips), 2)
        dataset = ClipDataset(clips, targets=(torch.rand(len(clips), CLASSES) < 0.3).float())
        for name, extractor in (("baseline", None), (arm.card.name, arm)):
            features = None if extractor is None else cache.streams(extractor.fingerprint(), clips)
            dataset.attach(cache.streams(front_end.fingerprint(), clips), features)
            sampler = PairedBatchSampler(len(dataset), arguments.batch_size, seed=0)
            loader = clip_loader(dataset, arguments.batch_size, 0, sampler)
            seconds = epoch_seconds(front_end, extractor, loader, arguments.epochs)
            figures[f"epoch_cpu_seconds_{name}"] = round(seconds, 4)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
