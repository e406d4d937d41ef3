"""What generation has in common, whichever family of models samples: what is asked for, and a folder that resumes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sonido_bench.audio import read_mono, write_audio
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import atomic_path, sha256_file, sha256_json
from sonido_bench.foundation.checkpoint import checkpoint_sha256
from sonido_bench.foundation.transformer.sampling import SamplingConfig

__all__ = [
    "GenerationConfig",
    "GenerationRecord",
    "file_sha256",
    "generation_settings",
    "load_tokens",
    "read_prime",
    "window_generator",
]

Level = TypeVar("Level", bound=str)

_TOKENS, _AUDIO = "tokens.safetensors", "generation.wav"


@dataclass(frozen=True)
class GenerationConfig:
    """What to generate.

    Attributes:
        seconds: To be sampled, beyond the clip that is continued; ``None`` with ``tokens``, which say how long.
        prime: Audio file that is continued.
        tokens: A ``tokens.safetensors`` whose coarse levels are kept, and whose missing levels are sampled.
        embedding: File of an audio embedding that is followed.
        text: What is followed instead, through CLAP.
        clap: Folder or name of the CLAP model for the text.
        hop_fraction: Share of the context that each window samples anew once the context is full, in (0, 1]; the rest
            is what the window before has sampled.
        sampling: How codes are drawn.
        seed: Of the draws.
    """

    seconds: float | None = None
    prime: Path | None = None
    tokens: Path | None = None
    embedding: Path | None = None
    text: str | None = None
    clap: str = "laion/larger_clap_music"
    hop_fraction: float = 0.5
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if (self.seconds is None) == (self.tokens is None):
            raise ConfigError("expected either seconds to sample, or tokens to sample finer levels of")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise ConfigError(f"expected seconds above 0, got {self.seconds:g}")
        if self.tokens is not None and self.prime is not None:
            raise ConfigError("a clip to continue and tokens exclude each other")
        if (self.embedding is not None and self.text is not None) or self.text == "":
            raise ConfigError("expected an embedding or a text or neither, and no empty text")
        if not 0 < self.hop_fraction <= 1:
            raise ConfigError(f"expected hop_fraction in (0, 1], got {self.hop_fraction:g}")


class GenerationRecord:
    """The folder of a generation: tokens and settings, saved as it goes on, and the audio at its end.

    Args:
        folder: Of ``tokens.safetensors`` and ``generation.wav``; is made when something is saved.
        settings: All that decides the result, JSON-able; a folder keeps to its own.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self._tokens, self._audio = folder / _TOKENS, folder / _AUDIO
        self._settings = json.dumps(settings, sort_keys=True)

    def resumed(self) -> dict[str, Tensor] | None:
        """Return the tokens that an earlier call has saved, or ``None``.

        Raises:
            ConfigError: If it had other settings.
            DataError: If they cannot be read.
        """
        if not self._tokens.exists():
            return None
        tokens, found = load_tokens(self._tokens)
        if found != self._settings:
            raise ConfigError(f"{self._tokens} holds a generation with other settings; give another output folder")
        return tokens

    def save(self, tokens: Mapping[Level, Tensor]) -> None:
        """Write the tokens that there are, whole or not at all."""
        with atomic_path(self._tokens) as temporary:
            plain: dict[str, Tensor] = {level: frames.cpu().contiguous() for level, frames in tokens.items()}
            save_file(plain, temporary, {"settings": self._settings})

    def finish(self, decode: Callable[[], Tensor], sample_rate: int) -> Path:
        """Return the audio file; it is decoded, to ``(1, samples)``, and written unless it is there."""
        if not self._audio.exists():
            decoded = decode()
            with atomic_path(self._audio) as temporary:
                write_audio(temporary, decoded, sample_rate)
        return self._audio


def load_tokens(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read level to tokens, and the settings that they were sampled with as text.

    Raises:
        DataError: If it is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            settings = (file.metadata() or {}).get("settings", "")
            return {level: file.get_tensor(level) for level in file.keys()}, settings  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: expected tokens as safetensors, found: {error}") from error


def read_prime(path: Path, sample_rate: int, hop: int) -> Tensor:
    """Read the clip that is continued, less the part of a frame at its end: its silence is not to be continued.

    Args:
        path: Of the clip.
        sample_rate: At which it is wanted, in Hz.
        hop: Samples of a frame, of the coarsest level.

    Returns:
        ``(1, samples)``.

    Raises:
        DataError: If it cannot be read, or is shorter than a frame.
    """
    audio = read_mono(path, sample_rate)
    if audio.shape[1] < hop:
        raise DataError(f"{path}: expected at least {hop / sample_rate:.3f} s to continue, found less")
    return audio[:, : audio.shape[1] // hop * hop]


def window_generator(seed: int, level: str, position: int) -> torch.Generator:
    """Return a generator for each window, so that a call that goes on draws what an uninterrupted one would."""
    return torch.Generator().manual_seed(int(sha256_json([seed, level, position])[:15], 16))


def generation_settings(checkpoint: Path, config: GenerationConfig) -> dict[str, object]:
    """Return what decides the result, JSON-able: files by their content, not by where they lie.

    Raises:
        DataError: If a file that the configuration names is missing.
    """
    files = {name: file_sha256(name, getattr(config, name)) for name in ("prime", "tokens", "embedding")}
    return {"checkpoint": checkpoint_sha256(checkpoint), **asdict(config), **files}


def file_sha256(name: str, path: Path | None) -> str | None:
    """Return the hash of a file that settings name, ``None`` for none.

    Raises:
        DataError: If it is missing.
    """
    if path is not None and not path.is_file():
        raise DataError(f"{path}: expected a file for {name}, found none")
    return sha256_file(path) if path else None
