"""The ablations of Jukebox's VQ-VAE (Dhariwal et al. 2020, tables 1 to 3) at a small scale, on rendered music.

Trains a small VQ-VAE per arm and seed, all on the same batches. Prints a row of JSON for each run: spectral
convergence in dB (lower is better), used codes and perplexity per level, on music that none was trained on; then a
table of means over seeds, and for each finding of the paper in how many seeds its sign is the same here.

Run: python -m benchmarks.jukebox_ablations [--quick] [--steps 250] [--tracks 60] [--seeds 2]
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sonido_bench.audio import read_audio, resample, to_mono
from sonido_bench.datamodules.rendering.dataset import RenderedConfig, load_manifest, prepare
from sonido_bench.foundation.codebook import perplexity, token_shares
from sonido_bench.foundation.jukebox.loss import spectral_convergence_db
from sonido_bench.foundation.jukebox.vqvae import TINY, VQVAE, VQVAEConfig

SEPARATE = replace(TINY, sample_rate=8000)
ARMS = {
    "separate": SEPARATE,
    "hierarchical": replace(SEPARATE, hierarchical=True),
    "without restart": replace(SEPARATE, restart=False),
    "codebook of 32": replace(SEPARATE, codebook_size=32),
    "no quantisation": replace(SEPARATE, codebook_size=None),
    "without spectral loss": replace(SEPARATE, spectral_weight=0.0),
}
SEGMENT, BATCH_SIZE, LEARNING_RATE = 8192, 8, 1e-3
Row = dict[str, float]
TOP = SEPARATE.levels - 1


def difference(figure: str, arm: str, better: int) -> Callable[[dict[str, Row]], bool]:
    """Return whether an arm's figure lies above (1) or below (-1) that of the separate autoencoders."""
    return lambda rows: better * (rows[arm][figure] - rows["separate"][figure]) > 0


FINDINGS = {  # of the paper: tables 1 to 3, and the figure of the codes' entropy
    "a hierarchical model is worse from the top level alone": difference(f"dB_{TOP}", "hierarchical", 1),
    "without restart, the bottom level is worse": difference("dB_0", "without restart", 1),
    "without restart, fewer codes of the bottom level are in use": difference("perplexity_0", "without restart", -1),
    "fewer codes make the bottom level worse": difference("dB_0", "codebook of 32", 1),
    "no quantisation makes the bottom level better": difference("dB_0", "no quantisation", -1),
    "without spectral loss, the top level is worse": difference(f"dB_{TOP}", "without spectral loss", 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 tracks, 2 steps, one seed: to see that it runs")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--tracks", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    steps, tracks, seeds = (2, 6, 1) if arguments.quick else (arguments.steps, arguments.tracks, arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        train, held_out = rendered_segments(Path(folder), tracks)
    found: list[dict[str, Row]] = []
    for seed in range(seeds):
        found.append({})
        for arm, config in ARMS.items():
            start = time.process_time()
            found[-1][arm] = scores(trained(config, train, steps, seed), held_out)
            run = {"arm": arm, "seed": seed, "steps": steps, "cpu_seconds": round(time.process_time() - start, 1)}
            print(json.dumps(run | found[-1][arm]), flush=True)
    print_table(found)
    for finding, confirmed in FINDINGS.items():
        print(f"{finding}: the same sign in {sum(map(confirmed, found))} of {seeds} seeds")


def rendered_segments(root: Path, tracks: int) -> tuple[Tensor, Tensor]:
    """Render music; return segments ``(segments, samples)`` for training and for testing, silent ones left out."""
    prepare(root, RenderedConfig(seconds=12, train=tracks, validation=max(4, tracks // 6), test=0))
    manifest, parts = load_manifest(root), []
    for split in ("train", "validation"):
        segments = []
        for track in manifest.split(split):
            audio, rate = read_audio(root / track.audio)
            mono = resample(to_mono(audio), rate, SEPARATE.sample_rate)
            segments.append(mono[: len(mono) // SEGMENT * SEGMENT].view(-1, SEGMENT))
        together = torch.cat(segments)
        parts.append(together[together.square().mean(dim=1) > 1e-6])
    return parts[0], parts[1]


def trained(config: VQVAEConfig, segments: Tensor, steps: int, seed: int) -> VQVAE:
    """Train by the published recipe, but with a cosine and a shorter warm-up; batches follow from the seed alone."""
    torch.manual_seed(seed)
    model = VQVAE(config)
    order = torch.Generator().manual_seed(seed)
    model.initialise([segments[torch.randint(len(segments), (32,), generator=order)]])
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = segments[torch.randint(len(segments), (BATCH_SIZE,), generator=order)]
        optimizer.zero_grad()
        model(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def scores(model: VQVAE, segments: Tensor) -> Row:
    """Return the spectral convergence of each level's reconstruction, and which codes are in use."""
    pieces = [model.reconstruct(batch) for batch in segments.split(16)]
    row = {}
    for level in range(model.levels):
        estimate = torch.cat([piece[level] for piece in pieces])
        row[f"dB_{level}"] = round(float(spectral_convergence_db(segments, estimate, model.config.metric_stft)), 2)
    if model.config.codebook_size is None:
        return row
    tokens = [model.encode(batch) for batch in segments.split(16)]
    for level in range(model.levels):
        column = torch.cat([batch[level].flatten() for batch in tokens]).unsqueeze(1)
        shares = token_shares(column, model.config.codebook_size)[0]
        row[f"used_{level}"] = int((shares > 0).sum())
        row[f"perplexity_{level}"] = round(float(perplexity(shares)), 1)
    return row


def print_table(found: list[dict[str, Row]]) -> None:
    """Print means over seeds, as Markdown."""
    figures = [f"{name}_{level}" for name in ("dB", "used", "perplexity") for level in range(SEPARATE.levels)]
    print("\n| arm | " + " | ".join(figures) + " |\n|" + " --- |" * (1 + len(figures)))
    for arm in ARMS:
        cells = []
        for figure in figures:
            values = [rows[arm][figure] for rows in found if figure in rows[arm]]
            cells.append(f"{sum(values) / len(values):.1f}" if values else "-")
        print(f"| {arm} | " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main()
