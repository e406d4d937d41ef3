"""A model as a folder: weights, configuration, model card and checksums. Nothing in it can run code.

A folder holds ``model.safetensors``, ``config.yaml`` (sections ``model`` and ``card``), ``README.md`` (the card as
text) and ``SHA256SUMS``, which is written last and checked first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sonido_bench.errors import ConfigError, DataError, SonidoError
from sonido_bench.files import atomic_path, sha256_file, write_text
from sonido_bench.foundation.card import ModelCard, card_from_dict, render_card

__all__ = [
    "CheckpointFormat",
    "CheckpointModel",
    "checked_configuration",
    "checkpoint_folder",
    "checkpoint_sha256",
    "load_card",
    "load_configuration",
    "load_model",
    "load_tensors",
    "model_section",
    "round_to_stored",
    "save_checkpoint",
    "shipped_folder",
    "stored_shapes",
]

_WEIGHTS, _CONFIG, _CARD, _SUMS = "model.safetensors", "config.yaml", "README.md", "SHA256SUMS"
_CONTENTS = (_WEIGHTS, _CONFIG, _CARD)
_PICKLES = {".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"}
_MAX_TEXT_BYTES = 1_000_000  # of config.yaml, README.md, SHA256SUMS
_REMEDY = "fetch the checkpoint again"


class _Configuration(Protocol):
    def as_dict(self) -> dict[str, Any]: ...


class CheckpointModel(Protocol):
    """A network that can be stored."""

    @property
    def config(self) -> _Configuration:
        """What it is made of."""

    def state_dict(self) -> dict[str, Any]:
        """Return its weights by name."""


ConfigT = TypeVar("ConfigT", bound=_Configuration)
ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class CheckpointFormat(Generic[ConfigT, ModelT]):
    """What one family of models adds to the format of all.

    Attributes:
        parse: From the section ``model``, plain values, and a name for errors to a configuration.
        build: From a configuration to a model with any weights.
        blocks: How many blocks a configuration asks for; each has a tensor at least, so a file bounds their number.
    """

    parse: Callable[[Mapping[str, Any], str], ConfigT]
    build: Callable[[ConfigT], ModelT]
    blocks: Callable[[ConfigT], int]


def save_checkpoint(folder: Path, model: CheckpointModel, card: ModelCard) -> None:
    """Write a model, matrices as float16 and the rest (biases, scales, statistics) as float32.

    Args:
        folder: Is made when missing. A process that is killed leaves it without checksums, and so not loadable.
        model: On any device; the plain values of its ``config`` are stored.
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


def load_model(folder: Path, form: CheckpointFormat[ConfigT, ModelT]) -> ModelT:
    """Read a model, in float32 on the CPU and in evaluation mode.

    All is checked before anything is built: checksums, then the configuration, then names and shapes of the tensors
    against a model without storage, so that no file can ask for more memory than it fills.

    Args:
        folder: As ``save_checkpoint`` writes it.
        form: Of the family of models.

    Raises:
        DataError: If the folder is not such a checkpoint, whole and unchanged.
    """
    config, state = checked_configuration(folder, form), load_tensors(folder)
    with torch.random.fork_rng(devices=[]):
        model = form.build(config)
    model.load_state_dict(state)
    return model.eval()


def checked_configuration(folder: Path, form: CheckpointFormat[ConfigT, ModelT]) -> ConfigT:
    """Check all of a checkpoint but the values of its tensors, and read its configuration; for parts that load late.

    Arguments and errors are those of ``load_model``.
    """
    config = load_configuration(folder, form)
    shapes = stored_shapes(folder / _WEIGHTS)
    blocks = form.blocks(config)
    if blocks > len(shapes):
        raise DataError(f"{folder / _CONFIG}: {blocks} blocks do not fit the {len(shapes)} tensors of {_WEIGHTS}")
    _compare(folder, shapes, _expected_shapes(folder, config, form))
    return config


def load_tensors(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of a checkpoint that was checked, as they are stored.

    Args:
        folder: Of the checkpoint.
        prefix: Of the names that are wanted, up to and with a dot; is taken off.

    Raises:
        DataError: If one holds NaN or infinity.
    """
    state = {}  # safe_open is no mapping: it has keys(), and cannot be iterated
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        for name in (name for name in file.keys() if name.startswith(prefix)):  # noqa: SIM118
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise DataError(f"{folder / _WEIGHTS}: tensor {name} holds NaN or infinity; {_REMEDY}")
            state[name.removeprefix(prefix)] = tensor
    return state


def load_configuration(folder: Path, form: CheckpointFormat[ConfigT, ModelT]) -> ConfigT:
    """Check the sums of a checkpoint and read its configuration; arguments and errors as for ``load_model``."""
    _verify(folder)
    try:
        return form.parse(_section(folder, "model"), str(folder / _CONFIG))
    except (SonidoError, RecursionError) as error:
        raise DataError(f"{error}; {_REMEDY}") from error


def model_section(folder: Path) -> Mapping[str, Any]:
    """Check the sums of a checkpoint and return the plain values of its model, unread: they tell its family.

    Raises:
        DataError: If the folder is no checkpoint, whole and unchanged.
    """
    _verify(folder)
    return _section(folder, "model")


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


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors of a safetensors file, from its header alone.

    Raises:
        DataError: If it is damaged or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(
            f"{path}: expected safetensors, found a truncated or foreign file: {error}; {_REMEDY}"
        ) from error


def _expected_shapes(
    folder: Path, config: ConfigT, form: CheckpointFormat[ConfigT, ModelT]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a model of this configuration, without their storage."""
    try:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in form.build(config).state_dict().items()}
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
