"""A whole Jukebox whose parts are loaded when their turn comes: all at once, they take 16 GB and more."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from sonido_bench.errors import ConfigError
from sonido_bench.files import sha256_json
from sonido_bench.foundation.jukebox.presets import prior_preset
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import PriorConfig
from sonido_bench.foundation.jukebox.vqvae import VQVAE

__all__ = ["JukeboxParts", "PriorSource", "published_parts"]


@dataclass(frozen=True)
class PriorSource:
    """A prior that is loaded when its turn comes.

    Attributes:
        config: Of the prior.
        load: Reads it.
    """

    config: PriorConfig
    load: Callable[[], Prior]


@dataclass(frozen=True)
class JukeboxParts:
    """A VQ-VAE and a prior for each of its levels.

    Attributes:
        identity: What tells these weights from others: a folder of saved codes belongs to one.
        vqvae: Reads the VQ-VAE.
        priors: Of level 0 (finest) first; the last is the top prior.
    """

    identity: str
    vqvae: Callable[[], VQVAE]
    priors: tuple[PriorSource, ...]

    def __post_init__(self) -> None:
        """Refuse priors that do not stand on each other."""
        if not self.priors or self.priors[-1].config.upsampler is not None:
            raise ConfigError("expected priors from level 0 up to a top prior, which is conditioned on no other")
        for level, (below, above) in enumerate(pairwise(source.config for source in self.priors)):
            ratio = self.ratio(level)
            fits = below.upsampler is not None and above.hop_length == ratio * below.hop_length
            if not fits or above.sample_rate != below.sample_rate or below.context % ratio:
                raise ConfigError(
                    f"prior {below.name} cannot be conditioned on {above.name}: expected the same sample rate, and "
                    f"hops in the ratio of its upsampler, which divides its context; give level 0 first"
                )

    def ratio(self, level: int) -> int:
        """Return the codes of a level in one of the level above, 1 for the top level."""
        upsampler = self.priors[level].config.upsampler
        return 1 if upsampler is None else 2**upsampler.doublings


def published_parts(
    preset: str,
    top: Path,
    upsampler_1: Path | None = None,
    upsampler_0: Path | None = None,
    vqvae: Path | None = None,
    dtype: torch.dtype = torch.float32,
    cache: Path | None = None,
) -> JukeboxParts:
    """Return the published Jukebox; its files are hashed now and read later.

    Args:
        preset: Top prior: ``5b``, ``5b_lyrics`` or ``1b_lyrics``.
        top: Where its weights lie; see ``load_prior`` of ``foundation/jukebox/checkpoint.py``.
        upsampler_1: Where those of the middle level lie; ``None``: with the top prior's, as in Hugging Face's folders.
        upsampler_0: Of the bottom level likewise.
        vqvae: Of the VQ-VAE likewise.
        dtype: Of the priors, see ``precision.py``; it is a part of the identity.
        cache: Folder in which priors are kept in a form that is read faster.

    Raises:
        ConfigError: If there is no such top prior or dtype.
        DataError: If files are missing.
    """
    from sonido_bench.foundation.jukebox.checkpoint import load_prior, load_vqvae
    from sonido_bench.foundation.jukebox.precision import check_dtype
    from sonido_bench.foundation.jukebox.weight_files import source_sha256

    check_dtype(dtype)
    if prior_preset(preset).upsampler is not None:
        raise ConfigError(f"{preset} is an upsampler; give a top prior: 5b, 5b_lyrics or 1b_lyrics")
    places = {"upsampler_0": upsampler_0 or top, "upsampler_1": upsampler_1 or top, preset: top}
    sums = {place: source_sha256(place) for place in {*places.values(), vqvae or top}}
    identity = [str(dtype), sums[vqvae or top], *((name, sums[place]) for name, place in places.items())]
    sources = tuple(
        PriorSource(prior_preset(name), partial(load_prior, name, place, None, dtype, cache))
        for name, place in places.items()
    )
    return JukeboxParts(sha256_json(identity), partial(load_vqvae, vqvae or top), sources)
