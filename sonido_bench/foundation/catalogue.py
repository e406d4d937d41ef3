"""Extractors by name: built in, or the user's own."""

import difflib
import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sonido_bench.errors import ConfigError

if TYPE_CHECKING:
    from sonido_bench.features.extractor import Extractor

__all__ = ["built_in_names", "load_extractor"]

# Imported when asked for: the command line lists names without loading a model.
_BUILT_IN = {
    "chroma": "sonido_bench.foundation.chroma:Chroma",
    "convnet": "sonido_bench.foundation.convnet:ConvNet",
    "lfk16": "sonido_bench.foundation.log_frequency_kmeans:LFK16",
    "logmel": "sonido_bench.foundation.logmel:LogMel",
    "sonido-tiny": "sonido_bench.foundation.sonido.extractor:SonidoTiny",
}
# The same for the stage-1 codes of a model without its language model.
_TOKENIZERS = {"sonido-tiny": "sonido_bench.foundation.sonido.extractor:SonidoTinyTokenizer"}


def built_in_names() -> list[str]:
    """Names of the extractors that come with the package, sorted."""
    return sorted(_BUILT_IN)


def load_extractor(name: str) -> "Extractor":
    """Build an extractor by its name on the leaderboard.

    Args:
        name: A built-in name, or ``module:Class`` of the user's own, importable or in the working folder and built
            without arguments; with ``@random`` appended, the same network with weights drawn afresh; with
            ``@tokenizer``, its stage-1 code embeddings without the language model.

    Raises:
        ConfigError: If there is no such extractor, class or control.
    """
    base, _, control = name.partition("@")
    if control == "tokenizer":
        return _build(_tokenizer_path(base))
    if control not in ("", "random") or name.endswith("@"):
        raise ConfigError(f"unknown control @{control} in {name!r}: expected @random or @tokenizer")
    extractor = _build(_class_path(base))
    if not control:
        return extractor
    from sonido_bench.foundation.controls import randomised

    return randomised(extractor)


def _class_path(name: str) -> str:
    if ":" in name:
        return name
    if name not in _BUILT_IN:
        raise ConfigError(
            f"unknown extractor {name!r}{_hint(name, _BUILT_IN)}; built in: {', '.join(built_in_names())}; "
            "or give your own as module:Class"
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
