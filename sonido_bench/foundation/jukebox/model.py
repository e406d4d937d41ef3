"""The whole model: a VQ-VAE, and a prior over the codes of each of its levels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.configuration import parse_dataclass, plain
from sonido_bench.foundation.jukebox.parts import JukeboxParts, PriorSource
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import PriorConfig
from sonido_bench.foundation.jukebox.vqvae import VQVAE
from sonido_bench.foundation.jukebox.vqvae_config import VQVAEConfig

__all__ = ["Jukebox", "JukeboxConfig", "JukeboxFeatureConfig", "parse_config"]


@dataclass(frozen=True)
class JukeboxFeatureConfig:
    """Which activations are the model's features, unless a user asks for others.

    Attributes:
        layers: Blocks of the top prior whose output is given, from 1; 0 is the input of the first.
        song_seconds: What the prior is then told of the song's length.
    """

    layers: tuple[int, ...]
    song_seconds: float = 62.0


@dataclass(frozen=True)
class JukeboxConfig:
    """A whole model.

    Attributes:
        name: Of the preset.
        vqvae: Audio to codes and back, at each level on its own.
        priors: One for each level, level 0 (the finest) first, as in ``VQVAEConfig``; the last is the top prior.
        features: The default features.
    """

    name: str
    vqvae: VQVAEConfig
    priors: tuple[PriorConfig, ...]
    features: JukeboxFeatureConfig

    def __post_init__(self) -> None:
        """Refuse a VQ-VAE that cannot be modelled level by level, and parts that do not belong together."""
        if self.vqvae.hierarchical or self.vqvae.codebook_size is None:
            raise ConfigError(f"{self.name}: priors want a VQ-VAE that quantises and is not hierarchical")
        if len(self.priors) != self.vqvae.levels:
            raise ConfigError(
                f"{self.name}: expected a prior for each of {self.vqvae.levels} levels, got {len(self.priors)}"
            )
        for level, prior in enumerate(self.priors):
            wanted = (self.vqvae.sample_rate, self.vqvae.hop(level), self.vqvae.codebook_size)
            found = (prior.sample_rate, prior.hop_length, prior.codebook_size)
            if found != wanted:
                raise ConfigError(
                    f"{self.name}: level {level} of the VQ-VAE has sample rate, hop and codebook size {wanted}, prior "
                    f"{prior.name} has {found}: make them agree"
                )
        if len({prior.name for prior in self.priors}) < len(self.priors):
            raise ConfigError(f"{self.name}: expected a name of its own for each prior")
        JukeboxParts(self.name, _not_there, tuple(PriorSource(prior, _not_there) for prior in self.priors))  # fit?
        self._check_features()

    def _check_features(self) -> None:
        top, layers = self.priors[-1], self.features.layers
        if not layers or len(set(layers)) < len(layers) or not all(0 <= layer <= top.depth for layer in layers):
            raise ConfigError(f"{self.name}: expected different layers from 0 to {top.depth}, got {list(layers)}")
        labels, seconds = top.labels, self.features.song_seconds
        if labels and labels.timing_bins and not labels.min_seconds <= seconds < labels.max_seconds:
            raise ConfigError(
                f"{self.name}: features.song_seconds: prior {top.name} knows songs of {labels.min_seconds:g} s to less "
                f"than {labels.max_seconds:g} s, got {seconds:g}"
            )

    def ratio(self, level: int) -> int:
        """Return the codes of a level in one code of the top level."""
        return self.vqvae.hop(self.vqvae.levels - 1) // self.vqvae.hop(level)

    def as_dict(self) -> dict[str, Any]:
        """Return plain, JSON-able values, from which ``parse_config`` makes an equal configuration."""
        values: dict[str, Any] = plain(self)
        return values


def parse_config(values: Mapping[str, Any], source: str = "configuration") -> JukeboxConfig:
    """Check plain values, as ``JukeboxConfig.as_dict`` gives them; see ``parse_dataclass``."""
    return parse_dataclass(JukeboxConfig, values, source)


class Jukebox(nn.Module):
    """A VQ-VAE and its priors, as one module to be stored; a large one is used in parts (``JukeboxParts``).

    Args:
        config: Sizes of all parts.

    Attributes:
        config: As given.
        vqvae: Between audio and codes.
        priors: Over the codes, level 0 first.
    """

    def __init__(self, config: JukeboxConfig) -> None:
        super().__init__()
        self.config = config
        self.vqvae = VQVAE(config.vqvae)
        self.priors = nn.ModuleList(Prior(prior) for prior in config.priors)


def _not_there() -> NoReturn:
    raise AssertionError("this model has no weights yet")
