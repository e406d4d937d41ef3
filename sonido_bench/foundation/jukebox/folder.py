"""A Jukebox as a folder: what pre-training writes, or the published weights as their makers hand them out."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_json
from sonido_bench.foundation.checkpoint import (
    CheckpointFormat,
    checked_configuration,
    checkpoint_sha256,
    load_model,
    load_tensors,
)
from sonido_bench.foundation.jukebox import checkpoint as published
from sonido_bench.foundation.jukebox.keys import differences, prior_weights
from sonido_bench.foundation.jukebox.model import Jukebox, JukeboxConfig, parse_config
from sonido_bench.foundation.jukebox.parts import JukeboxParts, PriorSource, published_parts
from sonido_bench.foundation.jukebox.precision import check_dtype, lowered
from sonido_bench.foundation.jukebox.presets import PRIORS
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import PriorConfig
from sonido_bench.foundation.jukebox.vqvae import VQVAE
from sonido_bench.foundation.jukebox.weight_files import WeightFiles

__all__ = [
    "PublishedFiles",
    "is_published",
    "jukebox_parts",
    "jukebox_vqvae",
    "load_checkpoint",
    "load_configuration",
    "load_top_prior",
    "published_files",
]

_TOP, _VQVAE = "prior_level_2.pth.tar", "vqvae.pth.tar"
_SHARED = "5b"  # OpenAI's folder of what its three models share
_OFFICIAL_TOPS = ("5b", "5b_lyrics", "1b_lyrics")
_MAX_JSON_BYTES = 1_000_000


@dataclass(frozen=True)
class PublishedFiles:
    """Where the weights of a published Jukebox lie; of Hugging Face's, all in one folder.

    Attributes:
        preset: Of the top prior.
        top: Its weights.
        upsampler_1: Those of the middle level.
        upsampler_0: Those of the bottom level.
        vqvae: Those of the VQ-VAE.
    """

    preset: str
    top: Path
    upsampler_1: Path
    upsampler_0: Path
    vqvae: Path


def is_published(folder: Path) -> bool:
    """Return whether a folder holds published weights: OpenAI's by their names, Hugging Face's by ``config.json``."""
    if (folder / _VQVAE).is_file() or _tops(folder) or next(folder.glob("prior_level_?.pth.tar"), None) is not None:
        return True
    path = folder / "config.json"
    if not path.is_file() or path.stat().st_size > _MAX_JSON_BYTES:
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("model_type") == "jukebox"


def published_files(folder: Path, preset: str | None = None) -> PublishedFiles:
    """Find the files of a published Jukebox.

    Args:
        folder: Hugging Face's; one with OpenAI's files; or one with OpenAI's folders ``5b``, ``5b_lyrics`` or
            ``1b_lyrics``, of which ``5b`` has what all share.
        preset: Of the top prior; ``None``: as the folder's name or its weights tell.

    Raises:
        ConfigError: If nothing tells which preset it is, or it is another.
    """
    if preset is not None and preset not in _top_presets():
        raise ConfigError(f"{preset!r} is no top prior; use one of: {', '.join(_OFFICIAL_TOPS)}")
    tops = _tops(folder)
    if tops and not (folder / _TOP).is_file():
        if preset is None and len(tops) > 1:
            raise ConfigError(f"{folder} has {', '.join(tops)}: say which as preset, or give its own folder")
        if (preset or tops[0]) not in tops:
            raise ConfigError(f"{folder} has {', '.join(tops)}, and no {preset}")
        folder = folder / (preset or tops[0])
    if not (folder / _TOP).is_file() and not (folder / _VQVAE).is_file():
        return PublishedFiles(preset or _recognised(folder), folder, folder, folder, folder)
    name = folder.resolve().name
    if preset is None and name not in _OFFICIAL_TOPS:
        raise ConfigError(
            f"{folder}: its name does not tell which model it is; give preset, one of: {', '.join(_OFFICIAL_TOPS)}"
        )
    if preset is not None and name in _OFFICIAL_TOPS and preset != name:
        raise ConfigError(f"{folder} is by its name the folder of {name}, not of {preset}: leave the preset out")
    upper, lower = _official(folder, "prior_level_1.pth.tar"), _official(folder, "prior_level_0.pth.tar")
    return PublishedFiles(preset or name, folder / _TOP, upper, lower, _official(folder, _VQVAE))


def jukebox_parts(
    folder: Path, preset: str | None = None, dtype: torch.dtype = torch.float32, cache: Path | None = None
) -> JukeboxParts:
    """Return the model of a folder in parts that are loaded when their turn comes; all is checked, or hashed, now.

    Args:
        folder: As pre-training writes it, or of published weights; see ``published_files``.
        preset: Of published weights; see ``published_files``.
        dtype: Of the priors, see ``precision.py``.
        cache: Folder in which published priors are kept in a form that is read faster.

    Raises:
        ConfigError: If an option is for other folders than this.
        DataError: If files are missing or broken.
    """
    if is_published(folder):
        files = published_files(folder, preset)
        return published_parts(files.preset, files.top, files.upsampler_1, files.upsampler_0, files.vqvae, dtype, cache)
    if preset is not None or cache is not None:
        raise ConfigError(f"{folder} is no published Jukebox, preset and cache are for these: leave them out")
    check_dtype(dtype)
    config = checked_configuration(folder, _FORMAT)
    sources = tuple(
        PriorSource(prior, partial(_load_prior, folder, prior, level, dtype))
        for level, prior in enumerate(config.priors)
    )
    identity = sha256_json([checkpoint_sha256(folder), str(dtype)])
    return JukeboxParts(identity, partial(_load_vqvae, folder, config), sources)


def jukebox_vqvae(folder: Path) -> VQVAE:
    """Read the VQ-VAE of a folder alone, in float32 on the CPU and in evaluation mode.

    Raises:
        DataError: If it is missing or broken.
    """
    if not is_published(folder):
        return _load_vqvae(folder, checked_configuration(folder, _FORMAT))
    alone = folder / _VQVAE
    if alone.is_file():
        return published.load_vqvae(alone)
    if tops := _tops(folder):
        return published.load_vqvae(_official(folder / tops[0], _VQVAE))
    return published.load_vqvae(folder)


def load_checkpoint(folder: Path) -> Jukebox:
    """Read a whole model that pre-training has written, in float32 on the CPU and in evaluation mode.

    Raises:
        DataError: If the folder is not a checkpoint of this family of models, whole and unchanged.
    """
    return load_model(folder, _FORMAT)


def load_configuration(folder: Path) -> JukeboxConfig:
    """Read the configuration of a model that pre-training has written; all but its weights is checked.

    Raises:
        DataError: As ``load_checkpoint``.
    """
    return checked_configuration(folder, _FORMAT)


def load_top_prior(folder: Path, config: JukeboxConfig, dtype: torch.dtype = torch.float32) -> Prior:
    """Read the top prior of a folder whose configuration was read, on the CPU and in evaluation mode.

    Raises:
        DataError: If a weight is not finite.
    """
    return _load_prior(folder, config.priors[-1], len(config.priors) - 1, dtype)


def _load_vqvae(folder: Path, config: JukeboxConfig) -> VQVAE:
    state = load_tensors(folder, "vqvae.")
    cast = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with torch.device("meta"):
        model = VQVAE(config.vqvae)
    model.load_state_dict(cast, assign=True)
    return model.eval()


def _load_prior(folder: Path, config: PriorConfig, level: int, dtype: torch.dtype) -> Prior:
    state = load_tensors(folder, f"priors.{level}.")
    with torch.device("meta"):
        model = Prior(config)
    model.load_state_dict({name: lowered(name, tensor, dtype) for name, tensor in state.items()}, assign=True)
    return model.eval()


def _tops(folder: Path) -> list[str]:
    """Return which of OpenAI's folders of models are in a folder."""
    return [name for name in _OFFICIAL_TOPS if (folder / name / _TOP).is_file()]


def _official(folder: Path, name: str) -> Path:
    """Return where a file lies that OpenAI's models share: in the folder, or in ``5b`` beside it."""
    places = (folder / name, folder.resolve().parent / _SHARED / name)
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"{name}: expected it in {folder}, or in a folder {_SHARED} beside it, found it in neither")


def _top_presets() -> list[str]:
    return [name for name, config in PRIORS.items() if config.upsampler is None]


def _recognised(folder: Path) -> str:
    """Return the preset of the top prior in Hugging Face's folder, by its tensors."""
    found = WeightFiles(folder).shapes("priors.0.")
    places = found.get("prior.pos_emb.pos_emb")  # saves building every model
    for name in _top_presets():
        config = PRIORS[name]
        alike = (config.positions, config.width) == places
        if alike and not differences(prior_weights(config, "hugging_face"), found):
            return name
    raise ConfigError(f"{folder}: its top prior is none of {', '.join(_OFFICIAL_TOPS)}; fetch the folder again")


def _blocks(config: JukeboxConfig) -> int:
    blocks = sum(config.vqvae.downs)
    for prior in config.priors:
        blocks += prior.depth
        if prior.upsampler is not None:
            blocks += prior.upsampler.doublings * prior.upsampler.depth
        if prior.lyrics is not None and prior.lyrics.encoder is not None:
            blocks += prior.lyrics.encoder.depth
    return blocks


_FORMAT = CheckpointFormat(parse_config, Jukebox, _blocks)
