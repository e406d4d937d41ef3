"""Models' configurations: dataclasses that become plain values, and are made of them again."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from sonido_bench.errors import ConfigError

__all__ = ["parse_dataclass", "plain", "read_mapping"]

T = TypeVar("T")


def plain(config: Any) -> Any:
    """Return a configuration, a dataclass, as JSON-able values."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def parse_dataclass(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    """Check plain values and make a dataclass of them.

    Args:
        kind: The dataclass.
        values: As ``plain`` gives them.
        source: Named in errors.

    Raises:
        ConfigError: If a name is unknown or missing, or a value has the wrong type or range; one line.
    """
    from jsonargparse import ArgumentError, ArgumentParser  # lazy: a slow import

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=kind)
    try:
        parsed = parser.instantiate_classes(parser.parse_object({"config": dict(values)}))
    except (ArgumentError, TypeError, ValueError, ConfigError) as error:
        raise ConfigError(f"{source}: {' '.join(str(error).split())}") from error
    config: T = parsed.config
    return config


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: If it is missing or something else; one line.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected a readable YAML file, found: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping, found {type(values).__name__}")
    return values
