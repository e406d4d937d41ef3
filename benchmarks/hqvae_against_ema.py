"""HQ-VAE's stochastic quantiser against moving-average codebooks: same network, same music, same number of steps.

Prints the mean squared error of the standardised spectrogram, decoded from the top level alone, top and mid, and all,
with the perplexity of each level's codebooks, on rendered music that neither was trained on.

Run: python benchmarks/hqvae_against_ema.py [--quick] [--steps 1000] [--tracks 120] [--seed 0]
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from sonido_bench.audio import read_audio, resample, to_mono
from sonido_bench.datamodules.rendering.dataset import RenderedConfig, load_manifest, prepare
from sonido_bench.foundation.codebook import token_metrics
from sonido_bench.foundation.sonido.config import load_config
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.sonido.quantizer import QuantizerKind

PRESET = Path(__file__).parents[1] / "configs" / "foundation" / "sonido-tiny.yaml"
SEGMENT_SECONDS, BATCH_SIZE, LEARNING_RATE = 1.5, 8, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 tracks and 60 steps: to see that it runs")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tracks", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    steps, tracks = (60, 40) if arguments.quick else (arguments.steps, arguments.tracks)
    with tempfile.TemporaryDirectory() as folder:
        train, held_out = rendered_segments(Path(folder), tracks)
    kinds: tuple[QuantizerKind, ...] = ("stochastic", "ema")
    for kind in kinds:
        torch.manual_seed(arguments.seed)
        start = time.process_time()
        model = trained(kind, train, steps)
        row = {"quantizer": kind, "steps": steps, "cpu_seconds": round(time.process_time() - start, 1)}
        print(json.dumps(row | scores(model, held_out)), flush=True)


def rendered_segments(root: Path, tracks: int) -> tuple[Tensor, Tensor]:
    """Render music; return segments ``(segments, samples)`` for training and for testing."""
    prepare(root, RenderedConfig(seconds=12, train=tracks, validation=max(8, tracks // 8), test=0))
    manifest, config = load_manifest(root), load_config(PRESET).stage_one
    hop = config.hop("top")
    samples = round(SEGMENT_SECONDS * config.sample_rate / hop) * hop
    parts = []
    for split in ("train", "validation"):
        segments = []
        for track in manifest.split(split):
            audio, rate = read_audio(root / track.audio)
            mono = resample(to_mono(audio), rate, config.sample_rate)
            segments.append(mono[: len(mono) // samples * samples].view(-1, samples))
        parts.append(torch.cat(segments))
    return parts[0], parts[1]


def trained(kind: QuantizerKind, segments: Tensor, steps: int) -> HQVAE:
    """Train by the recipe of the shipped model: temperature and latent weight on schedules, restarts, cosine."""
    model = HQVAE(load_config(PRESET).stage_one, kind)
    model.initialise(list(segments[torch.randperm(len(segments))[:256]].split(32)))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / 50) * 0.5 * (1 + math.cos(math.pi * done))
        temperature = 0.5 * 0.2 ** min(1.0, done / 0.7)
        kl_weight = min(1.0, 0.02 + 0.98 * max(0.0, done - 0.1) / 0.15)
        batch = segments[torch.randint(len(segments), (BATCH_SIZE,))]
        optimizer.zero_grad()
        model(batch, temperature, kl_weight).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 and done < 0.8:
            model.restart_dead_codes()
    return model.eval()


@torch.no_grad()
def scores(model: HQVAE, segments: Tensor) -> dict[str, float]:
    """Return errors of ever more levels, and perplexities."""
    tokens, data = model.encode(segments), model.front_end(segments)
    row = {}
    for count in range(1, len(model.levels) + 1):
        levels = model.levels[:count]
        decoded = model.decode({level: tokens[level] for level in levels})
        row[f"mse_{'+'.join(levels)}"] = round(float((decoded - data).square().mean()), 4)
    for level in model.levels:
        figures = token_metrics(tokens[level].flatten(0, 1), model.config.level(level).codebook_size)
        row[f"perplexity_{level}"] = round(float(figures["perplexity"]), 1)
        row[f"used_{level}"] = round(float(figures["used"]), 3)
    return row


if __name__ == "__main__":
    main()
