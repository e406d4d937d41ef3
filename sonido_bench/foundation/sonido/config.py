"""What a SoniDo model is made of, as data: read from YAML, stored beside its weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.configuration import parse_dataclass, plain, read_mapping

__all__ = [
    "FeatureConfig",
    "FrontEndConfig",
    "LevelConfig",
    "LevelName",
    "PriorConfig",
    "SonidoConfig",
    "StageOneConfig",
    "WaveformDecoderConfig",
    "load_config",
    "parse_config",
]

LevelName = Literal["top", "mid", "bottom"]
Pattern = Literal["row", "column", "previous_row", "dense", "bidirectional"]


@dataclass(frozen=True)
class FrontEndConfig:
    """What the autoencoder reads and writes.

    Attributes:
        kind: ``waveform`` as in the paper, or ``log_frequency``: a log-magnitude spectrogram on a musical scale.
        hop_length: Samples of a frame; 1 for the waveform.
        bins_per_octave: Of the log-frequency axis.
        octaves: Its extent.
        f_min: Its lowest bin's centre in Hz.
    """

    kind: Literal["waveform", "log_frequency"] = "waveform"
    hop_length: int = 1
    bins_per_octave: int = 24
    octaves: int = 8
    f_min: float = 27.5


@dataclass(frozen=True)
class LevelConfig:
    """One level of the hierarchy.

    Attributes:
        name: ``top`` is the coarsest.
        stride: Front-end frames of one frame of this level; a multiple of the next finer level's.
        width: Channels of the encoder and decoder at this level.
        depth: Residual blocks at this level, in each of the two.
        codebook_size: Codes of a codebook.
        code_dim: Width of a code.
        layers: Quantisers one after another, each coding what the ones before left over (RSQ-VAE); 1: SQ-VAE-2.
    """

    name: LevelName
    stride: int
    width: int = 64
    depth: int = 4
    codebook_size: int = 2048
    code_dim: int = 64
    layers: int = 1


@dataclass(frozen=True)
class StageOneConfig:
    """The autoencoder.

    Attributes:
        sample_rate: Of the mono audio, in Hz.
        levels: Coarse to fine.
        front_end: What it reads.
        bands: Codebooks side by side, one for each of so many equal parts of the front end's channels; 1 for waveform.
        kl_weight: Of the latent terms once warmed up; 1 is the bound of the paper.
        stft_weight: Of a multi-resolution STFT loss; 0: none. Waveform front end only.
        auxiliary_weight: Of heads that tell the spectrogram from the codes of each level but the finest.
    """

    levels: tuple[LevelConfig, ...]
    sample_rate: int = 44_100
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    bands: int = 1
    kl_weight: float = 1.0
    stft_weight: float = 0.0
    auxiliary_weight: float = 0.0

    def __post_init__(self) -> None:
        """Refuse levels that do not nest."""
        names = [level.name for level in self.levels]
        if not names or names != ["top", "mid", "bottom"][: len(names)]:
            raise ConfigError(f"levels must be top, mid, bottom, coarse to fine, got {names}")
        for coarse, fine in zip(self.levels, self.levels[1:], strict=False):
            if coarse.stride % fine.stride or coarse.stride <= fine.stride:
                raise ConfigError(f"stride of {coarse.name} ({coarse.stride}) must be a multiple of {fine.name}'s")

    def level(self, name: str) -> LevelConfig:
        """Return a level by its name."""
        return next(level for level in self.levels if level.name == name)

    def hop(self, name: str) -> int:
        """Return the samples of one frame of a level."""
        return self.level(name).stride * self.front_end.hop_length


@dataclass(frozen=True)
class PriorConfig:
    """A transformer over the tokens of one level.

    Attributes:
        level: Whose tokens it models.
        context: Positions that it sees at most.
        width: Channels.
        depth: Blocks.
        heads: Of the attention.
        attention_width: Channels of queries, keys and values together; Jukebox has a quarter of ``width``.
        mlp_width: Hidden channels of the feed-forward half.
        patterns: Of the attention, in turn; ``bidirectional`` goes with ``masked`` alone.
        block_length: Positions of a row of the factorised patterns; divides ``context``.
        dropout: On the branches of every block.
        above: The level that it is conditioned on, or ``None`` for the coarsest.
        conditioner_width: Channels of the convolutions over the tokens above.
        conditioner_depth: Their number.
        condition_dim: Width of an audio embedding that it may be given (512 for CLAP), or ``None``.
        condition_dropout: Share of training items whose embedding is replaced by the learned "none".
        objective: ``causal``: the next frame; ``masked``: hidden spans of frames, from both sides.
        horizon: Also predict which codes appear within so many frames ahead; 0: not.
        horizon_weight: Of that prediction in the loss.
        checkpointing: Recompute activations in the backward pass to save memory.
    """

    level: LevelName
    context: int
    width: int
    depth: int
    heads: int
    attention_width: int
    mlp_width: int
    patterns: tuple[Pattern, ...] = ("row", "column", "previous_row")
    block_length: int = 64
    dropout: float = 0.0
    above: LevelName | None = None
    conditioner_width: int = 1024
    conditioner_depth: int = 16
    condition_dim: int | None = None
    condition_dropout: float = 0.1
    objective: Literal["causal", "masked"] = "causal"
    horizon: int = 0
    horizon_weight: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit together."""
        if self.context % self.block_length or self.attention_width % self.heads:
            raise ConfigError(
                f"prior {self.level}: block_length must divide context, and heads attention_width, got "
                f"{self.block_length}, {self.context}, {self.heads}, {self.attention_width}"
            )
        if (self.objective == "masked") != (set(self.patterns) == {"bidirectional"}):
            raise ConfigError(f"prior {self.level}: the pattern bidirectional goes with the objective masked alone")
        if self.horizon_weight and not self.horizon:
            raise ConfigError(f"prior {self.level}: horizon_weight needs a horizon")


@dataclass(frozen=True)
class WaveformDecoderConfig:
    """A small network from the spectrogram that the codes give to a waveform.

    Attributes:
        width: Channels.
        depth: Residual blocks.
        n_fft: Of the inverse short-time Fourier transform at its end, whose hop is the front end's.
    """

    width: int = 192
    depth: int = 4
    n_fft: int = 1024


@dataclass(frozen=True)
class FeatureConfig:
    """Which activations are the model's features, unless a user asks for others.

    Attributes:
        layers: Blocks whose output is given, from 1; 0 is the input of the first. The same for every level.
        levels: Whose transformers are run.
        pool: Average finer levels onto the frames of the coarsest.
    """

    layers: tuple[int, ...]
    levels: tuple[LevelName, ...] = ("top", "mid")
    pool: bool = False


@dataclass(frozen=True)
class SonidoConfig:
    """A whole model.

    Attributes:
        name: Of the preset.
        stage_one: The autoencoder.
        priors: The transformers, coarse to fine.
        features: The default features.
        waveform_decoder: Only for a front end that is not the waveform.
    """

    name: str
    stage_one: StageOneConfig
    priors: tuple[PriorConfig, ...]
    features: FeatureConfig
    waveform_decoder: WaveformDecoderConfig | None = None

    def __post_init__(self) -> None:
        """Refuse priors of levels that are not there, and contexts that do not cover each other."""
        levels = [level.name for level in self.stage_one.levels]
        modelled = [prior.level for prior in self.priors]
        if modelled != levels[: len(modelled)]:
            raise ConfigError(f"priors must be of {levels}, coarse to fine, got {modelled}")
        for prior in self.priors:
            if prior.above is not None and levels.index(prior.above) >= levels.index(prior.level):
                raise ConfigError(f"prior {prior.level} cannot be conditioned on {prior.above}")
        if (self.stage_one.front_end.kind == "waveform") == (self.waveform_decoder is not None):
            raise ConfigError("a waveform decoder goes with a log-frequency front end, and only with that")

    def prior(self, level: str) -> PriorConfig:
        """Return the prior of a level."""
        return next(prior for prior in self.priors if prior.level == level)

    def window_samples(self) -> int:
        """Return the samples that all priors can see at once, a multiple of all hops."""
        hops = [self.stage_one.hop(prior.level) for prior in self.priors]
        common = math.lcm(*hops)
        return min(prior.context * hop for prior, hop in zip(self.priors, hops, strict=True)) // common * common

    def as_dict(self) -> dict[str, Any]:
        """Return plain, JSON-able values, from which ``parse_config`` makes an equal configuration."""
        values: dict[str, Any] = plain(self)
        return values


def parse_config(values: Mapping[str, Any], source: str = "configuration") -> SonidoConfig:
    """Check plain values, as ``SonidoConfig.as_dict`` gives them; see ``parse_dataclass``."""
    return parse_dataclass(SonidoConfig, values, source)


def load_config(path: Path) -> SonidoConfig:
    """Read a configuration from YAML: the file's ``model`` section, or the whole file.

    Raises:
        ConfigError: If the file is missing or not such a configuration.
    """
    values = read_mapping(path)
    return parse_config(values.get("model", values), str(path))
