"""How fast pre-training is: seconds of audio per CPU second of each of its parts, on one thread of this machine.

Rendering, reading with augmentation, stage one, token extraction and stage two, with the networks of a preset; all
data are made in a temporary folder.

Run: python benchmarks/pretraining_speed.py [--config configs/foundation/sonido-tiny.yaml] [--quick]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from sonido_bench.datamodules.augmentation import Augmentation, AugmentationConfig
from sonido_bench.datamodules.pretraining import HeldOutSegments, RandomSegments, StepDataModule
from sonido_bench.datamodules.recordings import RenderedAudio, RenderedAudioConfig, read_track
from sonido_bench.foundation.sonido.config import SonidoConfig, load_config
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.sonido.model import build_prior
from sonido_bench.foundation.sonido.tokens import encode_track
from sonido_bench.foundation.tokens import TokenWindows, read_index, write_tokens

BATCH, CROPS, SEGMENT_SECONDS = 8, 2, 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/foundation/sonido-tiny.yaml"))
    parser.add_argument("--quick", action="store_true", help="a few seconds of audio; figures are rough")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tracks, batches = (4, 2) if arguments.quick else (24, 12)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(load_config(arguments.config), Path(folder), tracks, batches)
    print(json.dumps({f"{part}_times_real_time": round(value, 1) for part, value in figures.items()}, indent=2))


def measure(config: SonidoConfig, folder: Path, tracks: int, batches: int) -> dict[str, float]:
    source = RenderedAudio(RenderedAudioConfig(str(folder), seconds=12.0, tracks=tracks, validation_tracks=1))
    names, rate = [*source.training, *source.validation], config.stage_one.sample_rate
    source.clip(names[0])  # imports and the soundfont are loaded once
    figures = {"rendering": 12.0 * (tracks - 1) / timed(lambda: [source.clip(name) for name in names[1:]])}

    model = HQVAE(config.stage_one)
    samples = round(SEGMENT_SECONDS * rate / model.common_hop) * model.common_hop
    segments = RandomSegments(source, AugmentationConfig(), samples, rate, CROPS, seed=0)
    data = StepDataModule(segments, HeldOutSegments(source, samples, rate), BATCH, CROPS, num_workers=0)
    audio: list[Tensor] = []
    seconds = timed(lambda: audio.extend(islice(data.batches(), batches)))
    batch_seconds = BATCH * samples / rate
    figures["augmented_audio"] = batches * batch_seconds / seconds

    model.initialise(audio)
    optimizer = torch.optim.AdamW(model.parameters())
    steps = [lambda batch=batch: model(batch, 0.5, 1.0).loss for batch in audio]
    figures["stage_one"] = batch_seconds / train(model.train(), optimizer, steps)

    recordings = [read_track(source.clip(name), rate, Augmentation()) for name in names]
    tokens: dict[str, dict[str, object]] = {}
    seconds = timed(lambda: tokens.update({n: encode_track(model, a) for n, a in zip(names, recordings, strict=True)}))
    figures["tokens"] = 12.0 * tracks / seconds
    write_tokens(folder / "tokens.safetensors", tokens.items())
    index = read_index([folder / "tokens.safetensors"], "top")
    for prior in config.priors:
        figures[f"stage_two_{prior.level}"] = time_prior(config, prior.level, index, batches)
    return figures


def time_prior(config: SonidoConfig, level: str, index: list, batches: int) -> float:
    architecture, stage_one = config.prior(level), config.stage_one
    prior = build_prior(architecture, stage_one)
    top = stage_one.levels[0].stride
    ratios = {name: top // stage_one.level(name).stride for name in (level, architecture.above) if name}
    windows = TokenWindows(index, architecture.context // ratios[level], ratios, seed=0)
    items = [[windows[batches * BATCH * turn + place] for place in range(BATCH)] for turn in range(batches)]
    joined = [{name: torch.cat([item[name] for item in batch]) for name in ratios} for batch in items]
    above = architecture.above
    steps = [lambda batch=batch: prior.loss(batch[level], batch[above] if above else None).loss for batch in joined]
    seconds = train(prior.train(), torch.optim.AdamW(prior.parameters()), steps)
    return BATCH * architecture.context * stage_one.hop(level) / stage_one.sample_rate / seconds


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: list[Callable[[], Tensor]]) -> float:
    """Return the median seconds of a training step."""
    times = []
    for step in steps:
        times.append(timed(lambda step=step: update(model, optimizer, step)))
    return sorted(times)[len(times) // 2]


def update(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], Tensor]) -> None:
    optimizer.zero_grad()
    step().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
