"""Extractors by name: built in, a model's folder, or the user's own class."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sonido_bench.errors import ConfigError

if TYPE_CHECKING:
    from sonido_bench.features.extractor import Extractor

__all__ = ["built_in_names", "load_extractor"]

# Imported when asked for: the command line lists names without loading a model.
_BUILT_IN = {
    "chroma": "sonido_bench.foundation.chroma:Chroma",
    "codec-tiny": "sonido_bench.foundation.codec.extractor:CodecTiny",
    "convnet": "sonido_bench.foundation.convnet:ConvNet",
    "lfk16": "sonido_bench.foundation.log_frequency_kmeans:LFK16",
    "logmel": "sonido_bench.foundation.logmel:LogMel",
    "sonido-tiny": "sonido_bench.foundation.sonido.extractor:SonidoTiny",
}
# The same for the codes of a model without its language model.
_TOKENIZERS = {
    "codec-tiny": "sonido_bench.foundation.codec.extractor:CodecTinyTokenizer",
    "sonido-tiny": "sonido_bench.foundation.sonido.extractor:SonidoTinyTokenizer",
}


def built_in_names() -> list[str]:
    """Names of the extractors that come with the package, sorted."""
    return sorted(_BUILT_IN)


def load_extractor(name: str, layers: Sequence[int] | None = None) -> "Extractor":
    """Build an extractor by its name on the leaderboard.

    Args:
        name: A built-in name; the folder of a model, of whichever family; or ``module:Class`` of the user's own,
            importable or in the working folder and built without arguments; with ``@random`` appended, the same network
            with weights drawn afresh; with ``@tokenizer``, its stage-1 code embeddings without the language model.
        layers: Of a model's folder, blocks whose output is given; ``None``: its own default.

    Raises:
        ConfigError: If there is no such extractor, class, control or layer.
        DataError: If a folder is no model, whole and unchanged.
    """
    base, _, control = name.partition("@")
    if control not in ("", "random", "tokenizer") or name.endswith("@"):
        raise ConfigError(f"unknown control @{control} in {name!r}: expected @random or @tokenizer")
    if base not in _BUILT_IN and base and Path(base).is_dir():
        extractor = _of_folder(Path(base), control == "tokenizer", layers)
    elif layers is not None:
        raise ConfigError(f"layers are those of a model's folder, and {base} is none: leave them out")
    else:
        extractor = _build(_tokenizer_path(base) if control == "tokenizer" else _class_path(base))
    if control != "random":
        return extractor
    from sonido_bench.foundation.controls import randomised

    return randomised(extractor)


def _of_folder(folder: Path, tokenizer: bool, layers: Sequence[int] | None) -> "Extractor":
    """Build the extractor of a model's family, or that of its codes alone."""
    from sonido_bench.foundation.codec.extractor import CodecExtractor
    from sonido_bench.foundation.family import model_family
    from sonido_bench.foundation.jukebox.extractor import JukeboxExtractor
    from sonido_bench.foundation.sonido.extractor import SonidoExtractor

    family = model_family(folder)
    extractor: Extractor
    if family == "jukebox":
        return JukeboxExtractor(folder, layers=layers, source="tokens" if tokenizer else "prior")
    if family == "codec":
        extractor = CodecExtractor(folder, layers, "codes" if tokenizer else "language_model")
    else:
        extractor = SonidoExtractor(folder, layers=layers, source="tokens" if tokenizer else "prior")
    if tokenizer:
        extractor.card = replace(extractor.card, name=f"{extractor.card.name}@tokenizer")
    return extractor


def _class_path(name: str) -> str:
    if ":" in name:
        return name
    if name not in _BUILT_IN:
        raise ConfigError(
            f"unknown extractor {name!r}{_hint(name, _BUILT_IN)}; built in: {', '.join(built_in_names())}; "
            "or give a model's folder, or your own as module:Class"
        )
    return _BUILT_IN[name]


def _tokenizer_path(name: str) -> str:
    if name not in _TOKENIZERS:
        having = ", ".join(sorted(_TOKENIZERS)) or "none of the built-in ones"
        raise ConfigError(f"{name!r} has no @tokenizer control; extractors that have one: {having}")
    return _TOKENIZERS[name]


def _build(path: str) -> "Extractor":
    """Import ``module:Class`` and build it without arguments."""
    from sonido_bench.features.extractor import Extractor

    module_name, _, class_name = path.partition(":")
    module = _import(module_name, path)
    found = getattr(module, class_name, None)
    if found is None:
        raise ConfigError(f"{path}: module {module_name} has no {class_name!r}{_hint(class_name, vars(module))}")
    if not (isinstance(found, type) and issubclass(found, Extractor)):
        raise ConfigError(f"{path}: expected a class derived from sonido_bench.features.extractor.Extractor")
    parameters = list(inspect.signature(found.__init__).parameters.values())[1:]
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if required:
        raise ConfigError(f"{path}: expected a default for every argument, found none for {', '.join(required)}")
    extractor: Extractor = found()
    return extractor


def _import(module_name: str, path: str) -> object:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that the user's files hide no library
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise ConfigError(f"{path}: no module {missing!r} in {folder} or on the Python path") from error
        raise ConfigError(f"{path}: its module needs {missing!r}, which is not installed") from error
    except (ImportError, SyntaxError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: expected module:Class, cannot import {module_name!r}: {error}") from error


def _hint(name: str, known: "dict[str, str] | dict[str, object]") -> str:
    """Close matches as a question, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f" (did you mean {', '.join(close)}?)" if close else ""
