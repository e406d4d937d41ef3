"""New music: codes sampled from nothing, or as the continuation of a clip."""

from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.checkpoint import load_checkpoint
from sonido_bench.foundation.codec.music_codec import MusicCodec
from sonido_bench.foundation.codec.sampling import sample, sampling_windows
from sonido_bench.foundation.generation import (
    GenerationConfig,
    GenerationRecord,
    generation_settings,
    read_prime,
    window_generator,
)
from sonido_bench.foundation.transformer.few_rows import lay_out

__all__ = ["generate"]

_CODES = "codes"


@torch.no_grad()
def generate(checkpoint: Path, output: Path, config: GenerationConfig, device: str = "cpu") -> Path:
    """Sample codes and write them and their audio.

    The codes are saved after every window of the language model's context: a call that was interrupted, made again,
    goes on from there and ends with the same codes. A finished one has nothing left to do.

    Args:
        checkpoint: A folder as ``save_checkpoint`` writes it.
        output: Folder of ``tokens.safetensors`` (int64 ``codes``, ``(1, frames, codebooks)``, and the settings) and
            ``generation.wav``.
        config: What to generate; tokens, embedding, text and guidance do not apply.
        device: To compute on.

    Returns:
        The audio file.

    Raises:
        ConfigError: If the model cannot do what is asked, or the folder holds another generation.
        DataError: If a file cannot be read.
    """
    model = load_checkpoint(checkpoint).to(device)
    seconds = _seconds(model, config)
    record = GenerationRecord(output, generation_settings(checkpoint, config))
    saved, codes = record.resumed(), _start(model, config)
    total = codes.shape[1] + max(1, round(seconds * model.codec.frame_rate))
    codes = (codes if saved is None else saved[_CODES]).to(device)
    record.save({_CODES: codes})
    windows = sampling_windows(codes.shape[1], total, model.config.language_model.context, config.hop_fraction)
    lay_out(model.language_model)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("sampling codes", total=total, completed=codes.shape[1])
        for _, known, end in windows:
            moved = partial(_advance, progress, bar, known, end)
            draws = window_generator(config.seed, _CODES, known)
            codes = sample(
                model.language_model, end, codes, None, config.sampling, draws, config.hop_fraction, moved
            ).codes
            record.save({_CODES: codes})
    return record.finish(lambda: model.decode(codes), model.sample_rate)


def _seconds(model: MusicCodec, config: GenerationConfig) -> float:
    """Refuse what does not apply, and return how much is to be sampled."""
    if config.seconds is None:
        raise ConfigError(f"{model.config.name} has one level of codes alone: give seconds to sample, and no tokens")
    if config.embedding or config.text:
        raise ConfigError(f"{model.config.name} follows no embedding or text: leave them out")
    if config.sampling.guidance != 1:
        raise ConfigError(f"guidance wants a condition, and {model.config.name} has none: give guidance 1")
    return config.seconds


def _start(model: MusicCodec, config: GenerationConfig) -> Tensor:
    """Codes that there are before any are sampled, ``(1, frames, codebooks)``."""
    if config.prime is None:
        return torch.zeros(1, 0, model.codec.codebooks, dtype=torch.int64)
    prime = read_prime(config.prime, model.sample_rate, model.hop_length)
    return model.encode(prime.to(next(model.parameters()).device))


def _advance(progress: Progress, bar: TaskID, known: int, end: int, done: int, steps: int) -> None:
    """Show how many of the frames from ``known`` to ``end`` are there after so many steps of a window."""
    progress.update(bar, completed=known + (end - known) * done / steps)
