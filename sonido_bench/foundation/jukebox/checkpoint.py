"""Jukebox's published weights: read from files that the user has; nothing is fetched.

The weights, and what is made with them, are under OpenAI's Noncommercial Use License.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.checkpoint import stored_shapes
from sonido_bench.foundation.jukebox.keys import (
    Weight,
    differences,
    first_blocks,
    from_theirs,
    hugging_face_prefix,
    prior_weights,
    vqvae_weights,
)
from sonido_bench.foundation.jukebox.precision import check_dtype, lowered
from sonido_bench.foundation.jukebox.presets import PRIORS, prior_preset
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import PriorConfig
from sonido_bench.foundation.jukebox.vqvae import PUBLISHED, TINY, VQVAE, VQVAEConfig
from sonido_bench.foundation.jukebox.weight_cache import (
    CachedWeights,
    WeightCache,
    is_cached,
    read_cached,
    weights_file,
)
from sonido_bench.foundation.jukebox.weight_files import WeightFiles, source_sha256

__all__ = ["LICENCE", "load_prior", "load_vqvae"]

LICENCE = "OpenAI's Noncommercial Use License"
_URL = "https://openaipublic.azureedge.net/jukebox/models/"
_OFFICIAL_FILES = {
    "vqvae": "5b/vqvae.pth.tar",
    "5b": "5b/prior_level_2.pth.tar",
    "5b_lyrics": "5b_lyrics/prior_level_2.pth.tar",
    "1b_lyrics": "1b_lyrics/prior_level_2.pth.tar",
    "upsampler_1": "5b/prior_level_1.pth.tar",
    "upsampler_0": "5b/prior_level_0.pth.tar",
}
_OFFICIAL_LEVELS = {8: 0, 32: 1, 128: 2}  # by hop length
_BOTH = "openai/jukebox-1b-lyrics or openai/jukebox-5b-lyrics"
_HUGGING_FACE = {
    "vqvae": _BOTH,
    "5b_lyrics": "openai/jukebox-5b-lyrics",
    "1b_lyrics": "openai/jukebox-1b-lyrics",
    "upsampler_1": _BOTH,
    "upsampler_0": _BOTH,
}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_vqvae(source: str | Path, config: VQVAEConfig = PUBLISHED) -> VQVAE:
    """Read a VQ-VAE.

    What files do not have is set as the original does when it resumes with one vector per code: counts of 1, sums equal
    to the codes. The bandwidths of the loss are 1; ``initialise`` would measure them, but make new codes.

    Args:
        source: OpenAI's ``vqvae.pth.tar``, a safetensors file of either layout, or a folder in Hugging Face's form.
        config: What is in it.

    Returns:
        In float32 on the CPU, in evaluation mode.

    Raises:
        ConfigError: If such files hold no model of this configuration.
        DataError: If the source is missing, damaged, could run code, or is of another model.
    """
    path = _existing(Path(source), "vqvae")
    _check_size(path, "vqvae", vqvae_weights(config, "official"))
    files = WeightFiles(path)
    weights = vqvae_weights(config, files.layout)
    state = _read(path, "vqvae", files, weights, weights, "vqvae." if files.layout == "hugging_face" else "")
    state = {name: tensor.float() for name, tensor in state.items()}
    for level in range(config.levels):
        codes = state[f"codebooks.{level}.codes"]
        state[f"codebooks.{level}.sums"] = codes.clone()
        state[f"codebooks.{level}.counts"] = torch.ones(codes.shape[:2])
        state[f"codebooks.{level}.initialised"] = torch.tensor(True)
    state |= {"bandwidth_l2": torch.tensor(1.0), "bandwidth_spectral": torch.tensor(1.0)}
    with torch.device("meta"):
        model = VQVAE(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def load_prior(
    preset: str | PriorConfig,
    source: str | Path,
    depth: int | None = None,
    dtype: torch.dtype = torch.float32,
    cache: str | Path | None = None,
) -> Prior:
    """Read a prior, or its first blocks.

    The model is built without storage, and each tensor is put into it as it is read. OpenAI's files cannot be read in
    part: the first time, one takes its own size of memory. With a cache, what is needed of it is kept as safetensors;
    with the cache's folder as source, the file is not even hashed.

    Args:
        preset: Name of a published prior, or a configuration.
        source: OpenAI's file, a safetensors file of either layout, a folder in Hugging Face's form, or a folder of a
            cache. Weights that are stored in ``dtype`` may stay mapped to the file: leave it as it is.
        depth: Blocks that are wanted, from the bottom: the deepest layer of ``hidden`` that is used. Such a model's
            logits say nothing. ``None``: all.
        dtype: float32, or float16 or bfloat16 for nearly all weights; see ``precision.py``.
        cache: A folder for cached weights, keyed by the source's SHA-256, the prior and ``depth``; ``None``: no cache.
            What is damaged there is made again.

    Returns:
        On the CPU, in evaluation mode.

    Raises:
        ConfigError: If there is no such preset, depth or dtype.
        DataError: If the source is missing, damaged, could run code, or is of another model.
    """
    config = prior_preset(preset) if isinstance(preset, str) else preset
    depth = config.depth if depth is None else depth
    if not 1 <= depth <= config.depth:
        raise ConfigError(f"prior {config.name} has {config.depth} blocks, depth {depth} is not 1 to {config.depth}")
    check_dtype(dtype)
    path = _existing(Path(source), config.name)
    if is_cached(path):
        state = _from_cache(path, read_cached(path), config, depth, dtype)
    elif cache is None:
        state = _convert(path, config, depth, dtype)
    else:
        state = _through_cache(path, config, depth, dtype, WeightCache(Path(cache)))
    with torch.device("meta"):
        model = Prior(replace(config, depth=depth))
    model.load_state_dict(state, assign=True)
    return model.eval()


def _through_cache(
    path: Path, config: PriorConfig, depth: int, dtype: torch.dtype, cache: WeightCache
) -> dict[str, Tensor]:
    """Read cached weights, after they were made if need be; what is cached has the precision of the source."""
    digest = source_sha256(path)
    record = cache.find(config.name, depth, digest)
    if record is None:
        record = cache.write(config.name, depth, digest, _convert(path, config, depth))
    return _from_cache(cache.folder(config.name, depth, digest), record, config, depth, dtype)


def _from_cache(
    folder: Path, record: CachedWeights, config: PriorConfig, depth: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    if record.prior != config.name or not depth <= record.depth <= config.depth:
        raise DataError(
            f"{folder}: expected {depth} blocks of prior {config.name}, found {record.depth} of {record.prior}; "
            "give the folder of that prior, or the file that it was made from"
        )
    file = weights_file(folder)
    cached = first_blocks(prior_weights(config, "official"), record.depth)
    if stored_shapes(file) != {weight.ours: weight.our_shape for weight in cached}:
        raise DataError(f"{file}: names and shapes are not those of prior {config.name}; delete {folder}")
    wanted = {weight.ours for weight in first_blocks(cached, depth)}
    with safe_open(file, framework="pt") as tensors:
        return {name: _lowered(file, name, tensors.get_tensor(name), dtype) for name in wanted}


def _convert(path: Path, config: PriorConfig, depth: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Read the first blocks from somebody else's file: our names, and a precision, or as stored there."""
    official = re.search(r"prior_level_(\d)", path.name)
    level = _OFFICIAL_LEVELS.get(config.hop_length)
    if official and level is not None and int(official[1]) != level:  # both upsamplers have the same shapes
        raise DataError(
            f"{path}: expected the prior of level {level}, by its name it is another's; {_where(config.name)}"
        )
    _check_size(path, config.name, prior_weights(config, "official"))
    files = WeightFiles(path)
    weights = prior_weights(config, files.layout)
    prefix = hugging_face_prefix(config) if files.layout == "hugging_face" else ""
    return _read(path, config.name, files, weights, first_blocks(weights, depth), prefix, dtype)


def _read(
    path: Path,
    name: str,
    files: WeightFiles,
    weights: Sequence[Weight],
    wanted: Sequence[Weight],
    prefix: str,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Hold a file to what a model needs, and read some of it: finite numbers, by our names.

    Args:
        path: For errors.
        name: Of the model, for errors.
        files: What there is.
        weights: What should be there.
        wanted: What is read of it.
        prefix: Of their names.
        dtype: Of a prior, which every tensor is given as it is read; ``None``: as stored.
    """
    found = files.shapes(prefix)
    if prefix:  # other models' weights may be there too, but nothing else
        found |= {key: shape for key, shape in files.shapes().items() if not re.match(r"vqvae\.|priors\.\d+\.", key)}
    if lines := differences(weights, found):
        raise DataError(f"{path} is not {name}: {'; '.join(lines)}. {_recognised(files, found)}{_where(name)}")
    files.keep({prefix + weight.theirs for weight in wanted})

    def take(key: str) -> Tensor:
        tensor = files.take(prefix + key)
        if tensor.dtype not in _FLOATS or not torch.isfinite(tensor).all():
            raise DataError(f"{path}: tensor {prefix + key} holds NaN, infinity or no real numbers; {_where(name)}")
        return tensor

    state: dict[str, Tensor] = {}
    for weight in wanted:
        for ours, tensor in from_theirs([weight], take).items():
            state[ours] = tensor if dtype is None else _lowered(path, ours, tensor, dtype)
    for weight in wanted:
        if not weight.copy or weight.theirs not in found:
            continue
        if not torch.equal(take(weight.theirs).to(state[weight.ours].dtype), state[weight.ours]):
            raise DataError(
                f"{path}: {prefix + weight.theirs} is not the input embedding, as it is in {name}; {_where(name)}"
            )
    return state


def _lowered(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    try:
        return lowered(name, tensor, dtype)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _existing(path: Path, name: str) -> Path:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; {_where(name)}")
    return path


def _where(name: str) -> str:
    """Say where the user gets a model."""
    if name not in _OFFICIAL_FILES:
        return "give the file of that model"
    folder = f", or the folder of {_HUGGING_FACE[name]} on Hugging Face" if name in _HUGGING_FACE else ""
    return f"fetch {_URL}{_OFFICIAL_FILES[name]} yourself{folder}; the weights are under {LICENCE}"


def _check_size(path: Path, name: str, weights: Sequence[Weight]) -> None:
    """Refuse a file that is too small, before it is read."""
    if not path.is_file():
        return
    # no published weight takes less than two bytes
    least = 2 * sum(torch.Size(weight.our_shape).numel() for weight in weights if not weight.copy)
    if (size := path.stat().st_size) < least:
        raise DataError(
            f"{path}: expected at least {least:,} bytes for {name}, found {size:,}: a truncated download, or another "
            f"model; {_where(name)}"
        )


def _recognised(files: WeightFiles, found: Mapping[str, tuple[int, ...]]) -> str:
    """Name the models that a file is of."""
    places = found.get("prior.pos_emb.pos_emb")  # saves building every model
    alike = {name: config for name, config in PRIORS.items() if (config.positions, config.width) == places}
    names = [name for name, config in alike.items() if not differences(prior_weights(config, files.layout), found)]
    if any(not differences(vqvae_weights(config, files.layout), found) for config in (PUBLISHED, TINY)):
        names.append("the VQ-VAE")
    return f"It is {' or '.join(names)}; ask for that, or " if names else ""
