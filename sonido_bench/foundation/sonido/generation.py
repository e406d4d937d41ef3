"""New music: sampled from nothing, as the continuation of a clip, or below given coarse tokens."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sonido_bench.audio import write_audio
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import atomic_path, sha256_file, sha256_json
from sonido_bench.foundation.checkpoint import checkpoint_sha256
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint
from sonido_bench.foundation.sonido.condition import embed_text, read_embedding
from sonido_bench.foundation.sonido.config import LevelName
from sonido_bench.foundation.sonido.model import Sonido
from sonido_bench.foundation.sonido.prior import Prior
from sonido_bench.foundation.sonido.reconstruction import read_mono
from sonido_bench.foundation.transformer.sampling import SamplingConfig

__all__ = ["GenerationConfig", "generate"]

_TOKENS, _AUDIO = "tokens.safetensors", "generation.wav"


@dataclass(frozen=True)
class GenerationConfig:
    """What to generate.

    Attributes:
        seconds: To be sampled, beyond the clip that is continued; ``None`` with ``tokens``, which say how long.
        prime: Audio file that is continued.
        tokens: A ``tokens.safetensors`` whose coarse levels are kept, and whose missing levels are sampled.
        embedding: File of an audio embedding that is followed.
        text: What is followed instead, through CLAP.
        clap: Folder or name of the CLAP model for the text.
        hop_fraction: Share of the context that each window samples anew once the context is full, in (0, 1]; the rest
            is what the window before has sampled.
        sampling: How codes are drawn.
        seed: Of the draws.
    """

    seconds: float | None = None
    prime: Path | None = None
    tokens: Path | None = None
    embedding: Path | None = None
    text: str | None = None
    clap: str = "laion/larger_clap_music"
    hop_fraction: float = 0.5
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if (self.seconds is None) == (self.tokens is None):
            raise ConfigError("expected either seconds to sample, or tokens to sample finer levels of")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise ConfigError(f"expected seconds above 0, got {self.seconds:g}")
        if self.tokens is not None and self.prime is not None:
            raise ConfigError("a clip to continue and tokens exclude each other")
        if (self.embedding is not None and self.text is not None) or self.text == "":
            raise ConfigError("expected an embedding or a text or neither, and no empty text")
        if not 0 < self.hop_fraction <= 1:
            raise ConfigError(f"expected hop_fraction in (0, 1], got {self.hop_fraction:g}")


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
    settings = _settings(checkpoint, config)
    saved, audio = output / _TOKENS, output / _AUDIO
    tokens = _resumed(saved, settings) if saved.exists() else _start(model, config)
    samplers = _samplers(model, config, tokens)
    _save(saved, tokens, settings)
    tokens = {level: frames.to(device) for level, frames in tokens.items()}
    with Progress(console=Console(stderr=True)) as progress:
        for sampler in samplers:
            bar = progress.add_task(f"sampling {sampler.level}", total=sampler.total)
            while tokens[sampler.level].shape[1] < sampler.total:
                tokens[sampler.level] = sampler.extended(tokens, partial(progress.update, bar))
                _save(saved, tokens, settings)
            progress.update(bar, completed=sampler.total)
    if not audio.exists():
        decoded = model.decode(tokens)
        with atomic_path(audio) as temporary:
            write_audio(temporary, decoded, model.sample_rate)
    return audio


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
            generator=self._generator(start + kept),
            progress=lambda drawn, _: progress(completed=start + kept + drawn),
        )
        return torch.cat([done, window[:, kept:]], dim=1)

    def _generator(self, position: int) -> torch.Generator:
        """One for each window, so that a call that goes on draws what an uninterrupted one would."""
        seed = int(sha256_json([self.config.seed, self.level, position])[:15], 16)
        return torch.Generator().manual_seed(seed)


def _samplers(model: Sonido, config: GenerationConfig, tokens: Mapping[LevelName, Tensor]) -> list[_LevelSampler]:
    """One for each transformer, coarse to fine."""
    hop, condition = model.stage_one.hop, _condition(model, config)
    coarsest = model.config.priors[0].level
    total = tokens[coarsest].shape[1]
    if config.seconds is not None:
        primed = _prime(model, config.prime).shape[1] // hop(coarsest) if config.prime else 0
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


def _settings(checkpoint: Path, config: GenerationConfig) -> dict[str, object]:
    """What decides the result, JSON-able: files by their content, not by where they lie."""
    values = asdict(config)
    for name in ("prime", "tokens", "embedding"):
        path = values[name]
        if path is not None and not path.is_file():
            raise DataError(f"{path}: expected a file for {name}, found none")
        values[name] = sha256_file(path) if path else None
    return {"checkpoint": checkpoint_sha256(checkpoint), **values}


def _start(model: Sonido, config: GenerationConfig) -> dict[LevelName, Tensor]:
    """Tokens that are there before any are sampled."""
    levels = [prior.level for prior in model.config.priors]
    given: dict[LevelName, Tensor] = {}
    if config.prime is not None:
        given = model.encode(_prime(model, config.prime).to(next(model.parameters()).device), levels[-1])
    elif config.tokens is not None:
        given = _read_given(model, config.tokens)
    empty = {level: torch.zeros(1, 0, model.stage_one.codebooks(level), dtype=torch.int64) for level in levels}
    return {level: given.get(level, empty[level]) for level in levels}


def _prime(model: Sonido, path: Path) -> Tensor:
    """Read the clip that is continued, less the part of a frame at its end: its silence is not to be continued."""
    audio, hop = read_mono(path, model.sample_rate), model.stage_one.common_hop
    if audio.shape[1] < hop:
        raise DataError(f"{path}: expected at least {hop / model.sample_rate:.3f} s to continue, found less")
    return audio[:, : audio.shape[1] // hop * hop]


def _read_given(model: Sonido, path: Path) -> dict[LevelName, Tensor]:
    """Read tokens that a user gives, and hold them to the model."""
    tokens, _ = _load(path)
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


def _save(path: Path, tokens: Mapping[LevelName, Tensor], settings: Mapping[str, object]) -> None:
    with atomic_path(path) as temporary:
        plain: dict[str, Tensor] = {level: frames.cpu().contiguous() for level, frames in tokens.items()}
        save_file(plain, temporary, {"settings": json.dumps(settings, sort_keys=True)})


def _load(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read tokens and the settings that they were sampled with."""
    try:
        with safe_open(path, framework="pt") as file:
            settings = (file.metadata() or {}).get("settings", "")
            return {level: file.get_tensor(level) for level in file.keys()}, settings  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: expected tokens as safetensors, found: {error}") from error


def _resumed(path: Path, settings: Mapping[str, object]) -> dict[LevelName, Tensor]:
    tokens, found = _load(path)
    if found != json.dumps(settings, sort_keys=True):
        raise ConfigError(f"{path} holds a generation with other settings; give another output folder")
    return {cast(LevelName, level): frames for level, frames in tokens.items()}
