"""What the gate compares the codes of a SoniDo checkpoint with, and what it asks of them."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sonido_bench.audio import read_clip, to_mono
from sonido_bench.benchmark.gate import Criterion, GateRow
from sonido_bench.clips import Clip
from sonido_bench.datamodules.rendering.dataset import Manifest
from sonido_bench.foundation.codebook import token_metrics
from sonido_bench.foundation.log_frequency_kmeans import LFK16
from sonido_bench.foundation.logmel import LogMel
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint
from sonido_bench.foundation.sonido.extractor import SonidoExtractor
from sonido_bench.foundation.sonido.hqvae import HQVAE

__all__ = ["GATE_DATA", "STAGE_ONE", "level_rows", "stage_one_rows", "untrained"]

GATE_DATA: dict[str, Any] = {"data_seed": 1001, "train_tracks": 600, "validation_tracks": 500, "test_tracks": 0}
"""Arguments of ``RenderedDataModule``: music of a seed that no benchmark uses, for what is chosen on validation."""

STAGE_ONE = (
    # as far behind log-mel as the prototype's thresholds were: key 0.45 and 0.40 of 0.56, notes 0.62 of 0.76
    Criterion("tokens", "key_accuracy", -0.11, over="logmel"),
    Criterion("tokens:top", "key_accuracy", -0.16, over="logmel"),
    Criterion("tokens", "note_ap", -0.14, over="logmel"),
    Criterion("tokens", "instrument_map", -0.01, over="logmel"),
    # learned, not a gift of the architecture
    Criterion("tokens", "key_accuracy", 0.04, over="random"),
    Criterion("tokens", "note_ap", 0.05, over="random"),
    # quantisation keeps what the encoder knows
    Criterion("tokens", "key_accuracy", -0.05, over="latents"),
    # better than the cheapest tokenizer
    Criterion("tokens", "key_accuracy", 0.0, over="lfk16", required=False),
    Criterion("tokens", "note_ap", 0.0, over="lfk16", required=False),
)
"""What is asked of the codes of the two coarsest levels; differences, since no score means the same on other music."""

_BATCH = 8
_START_CLIPS = 64


def stage_one_rows(checkpoint: Path, manifest: Manifest) -> list[GateRow]:
    """Return the codes and latents of a checkpoint's two coarsest levels, and what they are compared with.

    Args:
        checkpoint: A folder as ``save_checkpoint`` writes it; its transformers play no part.
        manifest: Some of its training clips start the untrained network.

    Raises:
        DataError: If checkpoint or audio cannot be read.
    """
    every = SonidoExtractor(checkpoint, levels=["top"], source="tokens").model.config.stage_one.levels
    levels = [level.name for level in every][:2]
    tokens = SonidoExtractor(checkpoint, levels, source="tokens")
    latents = SonidoExtractor(checkpoint, levels, source="latents")
    batches = _batches(
        _clips(manifest, "train")[:_START_CLIPS], tokens.spec.sample_rate, tokens.model.stage_one.common_hop
    )
    return [
        GateRow("logmel", LogMel()),
        GateRow("lfk16", LFK16()),
        GateRow("random", untrained(tokens, batches)),
        GateRow("latents", latents),
        GateRow("tokens", tokens),
        *(GateRow(f"tokens:{level}", tokens, [level]) for level in levels),
    ]


def untrained(extractor: SonidoExtractor, audio: Sequence[Tensor], seed: int = 0) -> SonidoExtractor:
    """Return the same extractor before its first training step.

    Weights are drawn afresh; statistics of the front end and codebooks start from data, as training does. It is a
    stricter control than random codes in front of a spectrogram that is not standardised.

    Args:
        extractor: Is not changed.
        audio: Batches ``(batch, samples)`` at its sample rate, samples a multiple of its common hop.
        seed: Of the draw.
    """
    control = deepcopy(extractor)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        stage_one = HQVAE(extractor.model.config.stage_one)
        stage_one.initialise(audio, torch.Generator().manual_seed(seed))
    control.model.stage_one = stage_one
    control.card = replace(extractor.card, name=f"{extractor.card.name}@untrained", weights_licence="none")
    return control.eval().requires_grad_(False)


@torch.no_grad()
def level_rows(checkpoint: Path, manifest: Manifest) -> list[dict[str, str | float]]:
    """Return how each level fares on the validation clips: its codes, and what it adds to the reconstruction.

    Args:
        checkpoint: A folder as ``save_checkpoint`` writes it.
        manifest: Of rendered data.

    Returns:
        Per level: ``used`` (share of the codes that occur, mean over codebooks), ``perplexity`` (mean) and
        ``least perplexity``, codes of a codebook, and the mean squared error of what the front end gives when this
        level and the coarser ones are decoded.
    """
    model = load_checkpoint(checkpoint).stage_one
    batches = _batches(_clips(manifest, "validation"), model.config.sample_rate, model.common_hop)
    tokens: dict[str, list[Tensor]] = {level: [] for level in model.levels}
    errors = dict.fromkeys(model.levels, 0.0)
    for batch in batches:
        encoded, data = model.encode(batch), model.front_end(batch)
        for index, level in enumerate(model.levels):
            tokens[level].append(encoded[level].flatten(0, 1))
            decoded = model.decode({name: encoded[name] for name in model.levels[: index + 1]})
            errors[level] += float((decoded - data).square().mean()) * len(batch)
    clips = sum(map(len, batches))
    rows: list[dict[str, str | float]] = []
    for index, level in enumerate(model.levels):
        figures = token_metrics(torch.cat(tokens[level]), model.config.level(level).codebook_size)
        rows.append(
            {
                "level": level,
                "used": float(figures["used"]),
                "perplexity": float(figures["perplexity"]),
                "least perplexity": float(figures["perplexity_min"]),
                "codes": float(model.config.level(level).codebook_size),
                "decoded": "+".join(model.levels[: index + 1]),
                "mse": errors[level] / clips,
            }
        )
    return rows


def _clips(manifest: Manifest, split: Literal["train", "validation"]) -> list[Clip]:
    return [Clip(t.name, manifest.root / t.audio, t.files[t.audio], 0.0, t.seconds) for t in manifest.split(split)]


def _batches(clips: Sequence[Clip], sample_rate: int, hop: int) -> list[Tensor]:
    """Read clips of equal length, cut to whole frames."""
    audio = torch.stack([to_mono(read_clip(clip, sample_rate)) for clip in clips])
    return list(torch.split(audio[:, : audio.shape[1] // hop * hop], _BATCH))
