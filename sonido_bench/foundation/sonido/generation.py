"""New music: sampled from nothing, as the continuation of a clip, or below given coarse tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.generation import (
    GenerationConfig,
    GenerationRecord,
    generation_settings,
    load_tokens,
    read_prime,
    window_generator,
)
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint
from sonido_bench.foundation.sonido.condition import embed_text, read_embedding
from sonido_bench.foundation.sonido.config import LevelName
from sonido_bench.foundation.sonido.model import Sonido
from sonido_bench.foundation.sonido.prior import Prior
from sonido_bench.foundation.transformer.few_rows import lay_out

__all__ = ["generate"]


@torch.no_grad()
def generate(checkpoint: Path, output: Path, config: GenerationConfig, device: str = "cpu") -> Path:
    """Sample tokens level by level, coarse to fine, and write them and their audio.

    The tokens are saved after every window: a call that was interrupted, made again, goes on from there and ends with
    the same tokens. A finished one has nothing left to do.

    Args:
        checkpoint: A folder as ``save_checkpoint`` writes it.
        output: Folder of ``tokens.safetensors`` (int64, all levels that have a transformer, and the settings) and
            ``generation.wav``.
        config: What to generate.
        device: To compute on.

    Returns:
        The audio file.

    Raises:
        ConfigError: If the model cannot do what is asked, or the folder holds another generation.
        DataError: If a file cannot be read.
    """
    model = load_checkpoint(checkpoint).to(device)
    _check(model, config)
    record = GenerationRecord(output, generation_settings(checkpoint, config))
    saved = record.resumed()
    tokens = _start(model, config) if saved is None else {cast(LevelName, level): saved[level] for level in saved}
    samplers = _samplers(model, config, tokens)
    record.save(tokens)
    tokens = {level: frames.to(device) for level, frames in tokens.items()}
    if config.sampling.guidance == 1:  # one row a step
        for sampler in samplers:
            lay_out(sampler.prior)
    with Progress(console=Console(stderr=True)) as progress:
        for sampler in samplers:
            bar = progress.add_task(f"sampling {sampler.level}", total=sampler.total)
            while tokens[sampler.level].shape[1] < sampler.total:
                tokens[sampler.level] = sampler.extended(tokens, partial(progress.update, bar))
                record.save(tokens)
            progress.update(bar, completed=sampler.total)
    return record.finish(lambda: model.decode(tokens), model.sample_rate)


@dataclass(frozen=True)
class _LevelSampler:
    """Extends the tokens of a level, one window of its transformer's context after another.

    Attributes:
        prior: The transformer.
        level: Its level.
        above: The level above, if it is conditioned on one.
        ratio: Frames of this level in one of the level above.
        total: Frames at the end.
        config: What to generate.
        condition: Audio embedding, ``(1, dim)``.
    """

    prior: Prior
    level: LevelName
    above: LevelName | None
    ratio: int
    total: int
    config: GenerationConfig
    condition: Tensor | None

    def extended(self, tokens: Mapping[LevelName, Tensor], progress: Callable[..., None]) -> Tensor:
        """Return the level's tokens with those of one more window behind them."""
        done = tokens[self.level]
        context = self.prior.config.context // self.ratio * self.ratio
        hop = max(int(self.config.hop_fraction * context) // self.ratio, 1) * self.ratio
        kept = min(done.shape[1], context - hop)
        start, steps = done.shape[1] - kept, min(context - kept, self.total - done.shape[1])
        span = slice(start // self.ratio, (start + kept + steps) // self.ratio)
        window = self.prior.sample(
            done[:, start:],
            steps,
            above=tokens[self.above][:, span] if self.above else None,
            condition=self.condition,
            sampling=self.config.sampling,
            generator=window_generator(self.config.seed, self.level, start + kept),
            progress=lambda drawn, _: progress(completed=start + kept + drawn),
        )
        return torch.cat([done, window[:, kept:]], dim=1)


def _samplers(model: Sonido, config: GenerationConfig, tokens: Mapping[LevelName, Tensor]) -> list[_LevelSampler]:
    """One for each transformer, coarse to fine."""
    hop, condition = model.stage_one.hop, _condition(model, config)
    coarsest = model.config.priors[0].level
    total = tokens[coarsest].shape[1]
    if config.seconds is not None:
        common = model.stage_one.common_hop
        primed = read_prime(config.prime, model.sample_rate, common).shape[1] // hop(coarsest) if config.prime else 0
        total = primed + max(1, round(config.seconds * model.sample_rate / hop(coarsest)))
    return [
        _LevelSampler(
            prior=model.prior(level),
            level=level,
            above=above,
            ratio=hop(above) // hop(level) if above else 1,
            total=total * hop(coarsest) // hop(level),
            config=config,
            condition=condition,
        )
        for level, above in ((prior.level, prior.above) for prior in model.config.priors)
    ]


def _check(model: Sonido, config: GenerationConfig) -> None:
    for prior in model.config.priors:
        if prior.objective != "causal":
            raise ConfigError(f"{model.config.name}: the transformer of {prior.level} is masked and cannot generate")
        if prior.condition_dim is None and (config.embedding or config.text):
            raise ConfigError(f"{model.config.name} follows no embedding or text: leave them out")
    if config.sampling.guidance != 1 and not (config.embedding or config.text):
        raise ConfigError("guidance wants a condition: give an embedding or a text, or guidance 1")


def _start(model: Sonido, config: GenerationConfig) -> dict[LevelName, Tensor]:
    """Tokens that are there before any are sampled."""
    levels = [prior.level for prior in model.config.priors]
    given: dict[LevelName, Tensor] = {}
    if config.prime is not None:
        prime = read_prime(config.prime, model.sample_rate, model.stage_one.common_hop)
        given = model.encode(prime.to(next(model.parameters()).device), levels[-1])
    elif config.tokens is not None:
        given = _read_given(model, config.tokens)
    empty = {level: torch.zeros(1, 0, model.stage_one.codebooks(level), dtype=torch.int64) for level in levels}
    return {level: given.get(level, empty[level]) for level in levels}


def _read_given(model: Sonido, path: Path) -> dict[LevelName, Tensor]:
    """Read tokens that a user gives, and hold them to the model."""
    tokens, _ = load_tokens(path)
    levels = [prior.level for prior in model.config.priors]
    if levels[0] not in tokens:
        raise DataError(f"{path}: expected tokens of the level {levels[0]}, found {sorted(tokens)}")
    samples = tokens[levels[0]].shape[1] * model.stage_one.hop(levels[0])
    given = {level: tokens[level] for level in levels if level in tokens and tokens[level].numel()}
    for level, found in given.items():
        size = model.config.stage_one.level(level).codebook_size
        expected = (1, samples // model.stage_one.hop(level), model.stage_one.codebooks(level))
        if found.shape != expected or not samples or found.is_floating_point():
            shape = tuple(found.shape)
            raise DataError(f"{path}: {level}: expected integers {expected}, found {found.dtype} {shape}")
        if int(found.min()) < 0 or int(found.max()) >= size:
            raise DataError(f"{path}: {level}: expected codes from 0 to {size - 1}, found others")
    return {level: found.long() for level, found in given.items()}


def _condition(model: Sonido, config: GenerationConfig) -> Tensor | None:
    dim = model.config.priors[0].condition_dim
    if dim is None or (config.embedding is None and config.text is None):
        return None
    found = (
        read_embedding(config.embedding, dim) if config.embedding else embed_text(str(config.text), dim, config.clap)
    )
    return found.to(next(model.parameters()).device)
