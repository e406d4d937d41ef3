"""A model as a folder: weights, configuration, model card and checksums. Nothing in it can run code.

A folder holds ``model.safetensors``, ``config.yaml`` (sections ``model`` and ``card``), ``README.md`` (the card as
text) and ``SHA256SUMS``, which is written last and checked first.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sonido_bench.errors import ConfigError, DataError, SonidoError
from sonido_bench.files import atomic_path, sha256_file, write_text
from sonido_bench.foundation.sonido.card import ModelCard, Row, card_from_dict, render_card
from sonido_bench.foundation.sonido.config import SonidoConfig, parse_config
from sonido_bench.foundation.sonido.model import Sonido

__all__ = [
    "checkpoint_folder",
    "checkpoint_sha256",
    "load_card",
    "load_checkpoint",
    "load_checkpoint_config",
    "round_to_stored",
    "save_checkpoint",
    "shipped_folder",
    "write_gate",
]

_WEIGHTS, _CONFIG, _CARD, _SUMS = "model.safetensors", "config.yaml", "README.md", "SHA256SUMS"
_CONTENTS = (_WEIGHTS, _CONFIG, _CARD)
_PICKLES = {".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"}
_MAX_TEXT_BYTES = 1_000_000  # of config.yaml, README.md, SHA256SUMS
_REMEDY = "fetch the checkpoint again"


def save_checkpoint(folder: Path, model: Sonido, card: ModelCard) -> None:
    """Write a model, matrices as float16 and the rest (biases, scales, statistics) as float32.

    Args:
        folder: Is made when missing. A process that is killed leaves it without checksums, and so not loadable.
        model: On any device.
        card: What the model's maker tells about it.

    Raises:
        DataError: If a weight is NaN or infinite.
    """
    state = {name: _stored(name, tensor) for name, tensor in model.state_dict().items()}
    (folder / _SUMS).unlink(missing_ok=True)
    with atomic_path(folder / _WEIGHTS) as temporary:
        save_file(state, temporary)
    values = {"model": model.config.as_dict(), "card": card.as_dict()}
    write_text(folder / _CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))
    write_text(folder / _CARD, render_card(card))
    write_text(folder / _SUMS, "".join(f"{sha256_file(folder / name)}  {name}\n" for name in _CONTENTS))


def write_gate(folder: Path, gate: tuple[Row, ...], levels: tuple[Row, ...]) -> None:
    """Write the figures of the gate into the card of a checkpoint, whose weights stay as they are.

    Args:
        folder: Of the checkpoint.
        gate: Figures of the probes.
        levels: Use of the codes and reconstruction.

    Raises:
        DataError: If the checkpoint cannot be read or written.
    """
    model, card = load_checkpoint(folder), load_card(folder)
    save_checkpoint(folder, model, replace(card, gate=gate, levels=levels))


def shipped_folder(name: str) -> Path:
    """Return where a checkpoint that comes with the package lies."""
    return Path(str(resources.files("sonido_bench") / "checkpoints" / name))


def checkpoint_folder(name: str) -> Path:
    """Return the folder of a checkpoint, given as a path or as the name of a shipped one.

    Raises:
        ConfigError: If there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if (shipped_folder(name) / _CONFIG).is_file():
        return shipped_folder(name)
    raise ConfigError(f"no checkpoint {name!r}: expected the folder of a model, or the name of a shipped one")


@torch.no_grad()
def round_to_stored(module: nn.Module) -> None:
    """Round weights, in place, to what a checkpoint stores of them.

    Done to an autoencoder before its tokens are written, it makes transformers train on the very tokens that the stored
    model gives: float16 moves about one code in two hundred to a neighbour.

    Raises:
        DataError: If a weight is NaN or infinite.
    """
    for name, tensor in module.state_dict().items():
        tensor.copy_(_stored(name, tensor))


def load_checkpoint(folder: Path) -> Sonido:
    """Read a model, in float32 on the CPU and in evaluation mode.

    All is checked before anything is built: checksums, then the configuration, then names and shapes of the tensors
    against a model without storage, so that no file can ask for more memory than it fills.

    Args:
        folder: As ``save_checkpoint`` writes it.

    Raises:
        DataError: If the folder is not such a checkpoint, whole and unchanged.
    """
    config = load_checkpoint_config(folder)
    shapes = _stored_shapes(folder / _WEIGHTS)
    blocks = _blocks(config)
    if blocks > len(shapes):
        raise DataError(f"{folder / _CONFIG}: {blocks} blocks do not fit the {len(shapes)} tensors of {_WEIGHTS}")
    _compare(folder, shapes, _expected_shapes(folder, config))
    state = load_file(folder / _WEIGHTS)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"{folder / _WEIGHTS}: tensor {name} holds NaN or infinity; {_REMEDY}")
    with torch.random.fork_rng(devices=[]):
        model = Sonido(config)
    model.load_state_dict(state)
    return model.eval()


def load_checkpoint_config(folder: Path) -> SonidoConfig:
    """Check the sums of a checkpoint and read its configuration.

    Raises:
        DataError: As ``load_checkpoint`` does.
    """
    _verify(folder)
    try:
        return parse_config(_section(folder, "model"), str(folder / _CONFIG))
    except (SonidoError, RecursionError) as error:
        raise DataError(f"{error}; {_REMEDY}") from error


def load_card(folder: Path) -> ModelCard:
    """Read the model card of a checkpoint whose sums were checked.

    Raises:
        DataError: If it is missing or malformed.
    """
    return card_from_dict(_section(folder, "card"), str(folder / _CONFIG))


def checkpoint_sha256(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's checksums: what names it among all others."""
    return sha256_file(folder / _SUMS)


def _stored(name: str, tensor: Tensor) -> Tensor:
    """Matrices as float16 where they fit its range, other floats as float32; always a copy, on the CPU."""
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.clone()
    if not torch.isfinite(tensor).all():
        raise DataError(f"tensor {name} holds NaN or infinity: the training diverged; lower its learning rate")
    half = tensor.half() if tensor.ndim > 1 else tensor.float().clone()
    return half if torch.isfinite(half).all() else tensor.float().clone()


def _verify(folder: Path) -> None:
    """Hold the files to ``SHA256SUMS``, which must name them and no others."""
    _refuse_pickles(folder)
    for name in (*_CONTENTS, _SUMS):
        path = folder / name
        if not path.is_file():
            raise DataError(
                f"{folder}: expected the files {', '.join((*_CONTENTS, _SUMS))}, found no {name}; {_REMEDY}"
            )
        if name != _WEIGHTS and path.stat().st_size > _MAX_TEXT_BYTES:
            raise DataError(f"{path}: expected at most {_MAX_TEXT_BYTES:,} bytes, found {path.stat().st_size:,}")
    for name, expected in _read_sums(folder / _SUMS).items():
        if (found := sha256_file(folder / name)) != expected:
            raise DataError(f"{folder / name}: expected SHA-256 {expected}, found {found}; {_REMEDY}")


def _refuse_pickles(path: Path) -> None:
    """Say clearly what is not read, before anything is opened."""
    candidates = [path, *sorted(path.iterdir())] if path.is_dir() and not (path / _WEIGHTS).exists() else [path]
    for candidate in candidates:
        if candidate.suffix in _PICKLES:
            raise DataError(
                f"{candidate}: pickled weights can run code and are never read; expected a folder with {_WEIGHTS}"
            )


def _read_sums(path: Path) -> dict[str, str]:
    """Read ``<sha256>  <name>`` lines."""
    try:
        pairs = [line.split("  ", 1) for line in path.read_text(encoding="ascii").splitlines()]
        sums = {name: digest for digest, name in pairs}
    except ValueError as error:  # of the encoding too
        raise DataError(f"{path}: expected lines of a SHA-256, two spaces and a name; {_REMEDY}") from error
    if sums.keys() != set(_CONTENTS):
        raise DataError(f"{path}: expected sums of {', '.join(_CONTENTS)}, found {sorted(sums)}; {_REMEDY}")
    return sums


def _section(folder: Path, name: str) -> Mapping[str, Any]:
    path = folder / _CONFIG
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path}: expected readable YAML, found: {' '.join(str(error).split())}; {_REMEDY}") from error
    section = values.get(name) if isinstance(values, dict) else None
    if not isinstance(section, dict):
        raise DataError(f"{path}: expected a section {name!r}; {_REMEDY}")
    return section


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors, from the header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(
            f"{path}: expected safetensors, found a truncated or foreign file: {error}; {_REMEDY}"
        ) from error


def _blocks(config: SonidoConfig) -> int:
    """Blocks that the configuration asks for; each has a tensor at least, so a file bounds their number."""
    stage_one, decoder = config.stage_one, config.waveform_decoder
    count = sum(level.depth + level.layers for level in stage_one.levels) + (decoder.depth if decoder else 0)
    return count + sum(prior.depth for prior in config.priors)


def _expected_shapes(folder: Path, config: SonidoConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a model of this configuration, without their storage."""
    try:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in Sonido(config).state_dict().items()}
    except (SonidoError, RuntimeError, ValueError, ArithmeticError) as error:
        raise DataError(f"{folder / _CONFIG}: describes no model that can be built: {error}") from error


def _compare(folder: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    differences = {"lacks": expected.keys() - found.keys(), "has unexpected": found.keys() - expected.keys()}
    for what, names in differences.items():
        if names:
            first = ", ".join(sorted(names)[:3])
            raise DataError(f"{folder / _WEIGHTS} {what} {len(names)} tensors of this model ({first}); {_REMEDY}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise DataError(
                f"{folder / _WEIGHTS}: tensor {name}: expected shape {shape}, found {found[name]}; {_REMEDY}"
            )
