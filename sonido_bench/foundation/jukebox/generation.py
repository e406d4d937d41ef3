"""New music by Jukebox: sampled from nothing, as the continuation of a clip, or below given coarse codes; with lyrics.

Dhariwal et al. (2020), sections 4 and 6; jukebox/sample.py. The level with hop 128 is sampled first, then those with
hops 32 and 8, each told the codes of the one above it. What is longer than a prior's context is sampled in windows:
each is given as codes what the windows before it have sampled of it, and is told where in the song it starts, and the
lyrics around there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.generation import GenerationRecord, file_sha256, load_tokens, read_prime, window_generator
from sonido_bench.foundation.jukebox.labels import LabelIds, SongLabels, label_vector, lyric_ids
from sonido_bench.foundation.jukebox.long_audio import decode_long, encode_long
from sonido_bench.foundation.jukebox.parts import JukeboxParts, PriorSource
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import PriorConfig
from sonido_bench.foundation.transformer.few_rows import lay_out
from sonido_bench.foundation.transformer.sampling import SamplingConfig

__all__ = ["JukeboxGeneration", "generate", "window_starts"]


@dataclass(frozen=True)
class JukeboxGeneration:
    """What to generate.

    Attributes:
        seconds: To be sampled, beyond the clip that is continued, rounded to whole codes of the top level (128
            samples). Any length: what is shorter than a window is sampled as the beginning of one, where the original
            asks for a whole window of the middle level. ``None`` with ``tokens``, which say how long.
        prime: Audio file that is continued at all levels.
        tokens: A ``tokens.safetensors`` whose levels are kept, and of which the levels below are sampled.
        finest: The level to stop at: 2 is quick to sample and rough to hear, 0 is all.
        song_seconds: What the priors are told of the song's length; ``None``: that of the music, or of the shortest
            song that the top prior knows.
        artist: By name; empty: unknown.
        genre: Likewise.
        lyrics: Of the whole song.
        ids: The ids of artists and genres, for each version of names that the priors have.
        hop_fractions: Share of the context, level 0 first, by which a window starts after the one before, in (0, 1].
        sampling: How codes are drawn, at all levels.
        seed: Of the draws.
    """

    seconds: float | None = None
    prime: Path | None = None
    tokens: Path | None = None
    finest: int = 0
    song_seconds: float | None = None
    artist: str = ""
    genre: str = ""
    lyrics: str = ""
    ids: tuple[LabelIds, ...] = ()
    hop_fractions: tuple[float, ...] = (0.5, 0.5, 0.125)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.99))
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if (self.seconds is None) == (self.tokens is None):
            raise ConfigError("expected either seconds to sample, or tokens to sample finer levels of")
        for name in ("seconds", "song_seconds"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ConfigError(f"expected {name} above 0, got {seconds:g}")
        if self.tokens is not None and self.prime is not None:
            raise ConfigError("a clip to continue and tokens exclude each other")
        if not all(0 < fraction <= 1 for fraction in self.hop_fractions):
            raise ConfigError(f"expected hop_fractions in (0, 1], got {self.hop_fractions}")


@torch.no_grad()
def generate(parts: JukeboxParts, output: Path, config: JukeboxGeneration, device: str = "cpu") -> Path:
    """Sample codes level by level, coarse to fine, and write them and the audio of the finest.

    The codes are saved after every window: a call that was interrupted, made again, goes on from there and ends with
    the same codes. A finished one has nothing left to do.

    Args:
        parts: The model.
        output: Folder of ``tokens.safetensors`` (``level_0`` ..., int64 ``(1, codes)``, and the settings) and
            ``generation.wav``.
        config: What to generate.
        device: To compute on.

    Returns:
        The audio file.

    Raises:
        ConfigError: If the model cannot do what is asked, the song is of a length that a prior does not know, or the
            folder holds another generation.
        DataError: If a file cannot be read.
    """
    _check(parts, config)
    record = GenerationRecord(output, _settings(parts, config))
    tokens = record.resumed()
    if tokens is None:
        tokens = _start(parts, config, device)
    plan = _plan(parts, config, tokens)
    record.save(tokens)
    with Progress(console=Console(stderr=True)) as progress:
        for level in plan:
            bar = progress.add_task(f"sampling level {level.number}", total=level.total)
            for extended in level.windows(tokens, device, partial(progress.update, bar)):
                tokens[level.key] = extended
                record.save(tokens)
            progress.update(bar, completed=level.total)
    rate = parts.priors[-1].config.sample_rate
    finest = config.finest
    return record.finish(
        lambda: decode_long(parts.vqvae().to(device), tokens[_key(finest)].to(device), finest).cpu(), rate
    )


def window_starts(total: int, context: int, hop: int) -> list[int]:
    """Return where windows start that cover a level: every ``hop`` codes, and the last one so that it ends at the end.

    Args:
        total: Codes of the level; if they are fewer than ``context``, one window is shorter.
        context: Codes of a window.
        hop: At most ``context``.
    """
    if total <= context:
        return [0]
    return [min(start, total - context) for start in range(0, total - context + hop, hop)]


@dataclass(frozen=True)
class _Level:
    """Extends the codes of a level, one window of its prior's context after another.

    Attributes:
        number: Of the level.
        source: Of its prior.
        ratio: Its codes in one of the level above.
        total: Its codes at the end.
        labels: Start of every window, in order, to what the prior is told about it.
        config: What to generate.
    """

    number: int
    source: PriorSource
    ratio: int
    total: int
    labels: Mapping[int, Tensor | None]
    config: JukeboxGeneration

    @property
    def key(self) -> str:
        """Return the name of the level's codes."""
        return _key(self.number)

    def windows(self, tokens: Mapping[str, Tensor], device: str, progress: Callable[..., None]) -> Iterator[Tensor]:
        """Yield the level's codes, longer each time, until all are there; the prior is in memory for so long."""
        done = tokens[self.key]
        if done.shape[1] >= self.total:
            return
        prior = self.source.load().to(device).eval()
        lay_out(prior.music)
        for start, labels in self.labels.items():
            end = min(start + prior.config.context, self.total)
            if end > done.shape[1]:
                sampled = self._window(prior, tokens, slice(start, end), done, labels, progress)
                done = torch.cat([done, sampled[:, done.shape[1] - start :].cpu()], dim=1)
                yield done

    def _window(
        self,
        prior: Prior,
        tokens: Mapping[str, Tensor],
        span: slice,
        done: Tensor,
        labels: Tensor | None,
        progress: Callable[..., None],
    ) -> Tensor:
        device, before = next(prior.parameters()).device, done.shape[1]
        above = None
        if prior.upsampler is not None:
            covered = slice(span.start // self.ratio, -(-span.stop // self.ratio))
            above = tokens[_key(self.number + 1)][:, covered].to(device)
        return prior.sample(
            done[:, span.start :].to(device),
            span.stop - before,
            None if labels is None else labels[None].to(device),
            above,
            self.config.sampling,
            window_generator(self.config.seed, self.key, before),
            progress=lambda drawn, _: progress(completed=before + drawn),
        )


def _key(level: int) -> str:
    return f"level_{level}"


def _check(parts: JukeboxParts, config: JukeboxGeneration) -> None:
    levels = len(parts.priors)
    if not 0 <= config.finest < levels or len(config.hop_fractions) != levels:
        raise ConfigError(
            f"this Jukebox has {levels} levels: expected finest of 0 to {levels - 1} and as many hop_fractions, got "
            f"{config.finest} and {len(config.hop_fractions)}"
        )
    configs = [source.config for source in parts.priors]
    if config.lyrics and not any(prior.lyrics is not None for prior in configs):
        raise ConfigError(f"prior {configs[-1].name} follows no lyrics: leave them out, or take a preset with lyrics")
    if config.sampling.guidance != 1:
        raise ConfigError("Jukebox has no guidance: leave it at 1")
    if config.artist or config.genre:
        versions = {prior.labels.version for prior in configs if prior.labels is not None}
        if missing := sorted(versions - {ids.version for ids in config.ids}):
            raise ConfigError(f"artist and genre are looked up in ids of {', '.join(missing)}; give them as LabelIds")


def _settings(parts: JukeboxParts, config: JukeboxGeneration) -> dict[str, object]:
    """What decides the result, JSON-able: files by their content, not by where they lie."""
    values: dict[str, object] = {"parts": parts.identity, **asdict(config)}
    values |= {name: file_sha256(name, getattr(config, name)) for name in ("prime", "tokens")}
    found = [_names(source.config, config) for source in parts.priors]
    return values | {"ids": found}  # of the names alone, not the thousands of others


def _names(prior: PriorConfig, config: JukeboxGeneration) -> tuple[int, tuple[int, ...]]:
    """Return the ids of artist and genres as a prior knows them; 0 is unknown."""
    if prior.labels is None or not (config.artist or config.genre):
        return 0, (0,)
    ids = next(ids for ids in config.ids if ids.version == prior.labels.version)
    return ids.artist_id(config.artist), ids.genre_ids(config.genre) if config.genre else (0,)


def _start(parts: JukeboxParts, config: JukeboxGeneration, device: str) -> dict[str, Tensor]:
    """Return the codes that are there before any are sampled, of all levels that are wanted."""
    tokens = {_key(level): torch.zeros(1, 0, dtype=torch.int64) for level in range(config.finest, len(parts.priors))}
    if config.prime is not None:
        top, vqvae = parts.priors[-1].config, parts.vqvae().to(device)
        audio = read_prime(config.prime, top.sample_rate, top.hop_length).to(device)
        return {_key(level): encode_long(vqvae, audio, level).cpu() for level in range(config.finest, vqvae.levels)}
    return tokens | (_given(parts, config.tokens) if config.tokens is not None else {})


def _given(parts: JukeboxParts, path: Path) -> dict[str, Tensor]:
    """Read codes that a user gives, and hold them to the model."""
    configs = {_key(level): source.config for level, source in enumerate(parts.priors)}
    tokens = {name: codes for name, codes in load_tokens(path)[0].items() if name in configs and codes.numel()}
    if not tokens:
        raise DataError(f"{path}: expected tokens of one of {', '.join(configs)}, found none")
    coarsest = max(tokens)
    samples = tokens[coarsest].shape[-1] * configs[coarsest].hop_length
    for name, found in tokens.items():
        size, expected = configs[name].codebook_size, (1, samples // configs[name].hop_length)
        if found.shape != expected or found.is_floating_point():
            raise DataError(f"{path}: {name}: expected integers {expected}, found {found.dtype} {tuple(found.shape)}")
        if int(found.min()) < 0 or int(found.max()) >= size:
            raise DataError(f"{path}: {name}: expected codes from 0 to {size - 1}, found others")
    return {name: found.long() for name, found in tokens.items()}


def _plan(parts: JukeboxParts, config: JukeboxGeneration, tokens: Mapping[str, Tensor]) -> list[_Level]:
    """Return the levels to be sampled, coarse to fine; all windows are known, and checked, before the first one."""
    top, samples = parts.priors[-1].config, _samples(parts, config, tokens)
    shortest = top.labels.min_seconds if top.labels is not None else 0.0
    song = max(samples / top.sample_rate, shortest) if config.song_seconds is None else config.song_seconds
    told = -(-round(song * top.sample_rate) // top.hop_length) * top.hop_length
    if told < samples:
        raise ConfigError(
            f"expected song_seconds of {samples / top.sample_rate:.2f} s at least, the music's own, got {song:g}"
        )
    given = set() if config.tokens is None else {int(name[6:]) for name, codes in _given(parts, config.tokens).items()}
    levels = range(max(given, default=len(parts.priors)) - 1, config.finest - 1, -1)
    return [_level(parts, config, level, samples, told) for level in levels if level not in given]


def _samples(parts: JukeboxParts, config: JukeboxGeneration, tokens: Mapping[str, Tensor]) -> int:
    """Return how long the music will be, in samples."""
    if config.tokens is not None:
        name, codes = max(_given(parts, config.tokens).items())
        return codes.shape[1] * parts.priors[int(name[6:])].config.hop_length
    top = parts.priors[-1].config
    primed = 0
    if config.prime is not None:
        primed = read_prime(config.prime, top.sample_rate, top.hop_length).shape[1]
    assert config.seconds is not None
    return primed + max(round(config.seconds * top.sample_rate / top.hop_length), 1) * top.hop_length


def _level(parts: JukeboxParts, config: JukeboxGeneration, level: int, samples: int, told: int) -> _Level:
    source, ratio = parts.priors[level], parts.ratio(level)
    prior, total = source.config, samples // source.config.hop_length
    hop = max(int(config.hop_fractions[level] * prior.context) // ratio, 1) * ratio
    artist, genres = _names(prior, config)
    lyrics: tuple[int, ...] = ()
    if prior.lyrics is not None and prior.labels is not None:
        lyrics = tuple(lyric_ids(config.lyrics, prior.labels.version))
    song = SongLabels(told, artist, genres, lyrics)
    starts = window_starts(total, prior.context, hop)
    labels: dict[int, Tensor | None] = dict.fromkeys(starts)
    if prior.labels is not None:
        try:
            labels = {start: label_vector(prior, song, start * prior.hop_length) for start in starts}
        except ValueError as error:  # of the song's length: all else was held to the prior before
            raise ConfigError(str(error)) from error
    return _Level(level, source, ratio, total, labels, config)
