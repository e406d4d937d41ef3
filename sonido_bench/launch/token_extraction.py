"""Audio to tokens on disk, between the phases of pre-training."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sonido_bench.datamodules.augmentation import Augmentation, AugmentationConfig
from sonido_bench.datamodules.recordings import AudioConfig, AudioSource, open_audio, read_track
from sonido_bench.errors import DataError
from sonido_bench.files import sha256_json
from sonido_bench.foundation.checkpoint import round_to_stored
from sonido_bench.foundation.configuration import plain
from sonido_bench.foundation.tokens import TokenizedTrack, read_index, write_tokens
from sonido_bench.launch.phase import load_weights, restore
from sonido_bench.launch.pretraining_config import PretrainingConfig

__all__ = [
    "EncodeJob",
    "Encoder",
    "Tokenizer",
    "as_stored",
    "encoding_jobs",
    "token_tracks",
    "tokens_key",
    "weights_sha256",
]

Encoder = Callable[[Tensor], dict[str, np.ndarray]]
"""Maps mono audio ``(samples,)`` to level to tokens ``(frames, codebooks)``."""

Network = TypeVar("Network", bound=nn.Module)


class Tokenizer(Protocol):
    """What makes tokens of audio; picklable and hashable, so that worker processes can have it and open it once."""

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""

    @property
    def coarsest(self) -> str:
        """Name of the coarsest level of tokens."""

    @property
    def frame_seconds(self) -> float:
        """Length of a frame of the coarsest level."""

    def identity(self) -> dict[str, str]:
        """Return hashes of the weights that decide the tokens."""

    def open(self) -> Encoder:
        """Build the networks."""

    def __hash__(self) -> int:
        """Return the same for equal ones."""


@dataclass(frozen=True)
class EncodeJob:
    """One shard of tokens, for a pool of processes.

    Attributes:
        tokenizer: What makes the tokens.
        data: The audio.
        augmentation: What happens to copies other than 0.
        seed: Of the augmentation.
        path: Of the shard.
        versions: The recordings, each with the number of its copy.
        deadline: Of ``time.time()``, after which nothing is begun, or ``None``.
    """

    tokenizer: Tokenizer
    data: AudioConfig
    augmentation: AugmentationConfig
    seed: int
    path: Path
    versions: tuple[tuple[str, int], ...]
    deadline: float | None

    @property
    def label(self) -> str:
        """What a progress bar shows."""
        return self.path.stem

    def __call__(self) -> None:
        """Encode, unless the time is over."""
        if self.deadline is None or time.time() < self.deadline:
            # the folder of the tokens is named after the weights
            opened = _opened(self.tokenizer, self.data, self.path.parent)
            encoded = ((f"{name}/{copy}", self._encode(opened, name, copy)) for name, copy in self.versions)
            write_tokens(self.path, encoded)

    def _encode(self, opened: "_Opened", name: str, copy: int) -> dict[str, np.ndarray]:
        augmentation = Augmentation()
        if copy:
            entropy = int(sha256_json([self.seed, name, copy])[:16], 16)
            augmentation = self.augmentation.draw(np.random.default_rng(entropy))
        return opened.encode(read_track(opened.source.clip(name), self.tokenizer.sample_rate, augmentation))


def encoding_jobs(
    config: PretrainingConfig, source: AudioSource, tokenizer: Tokenizer, folder: Path, deadline: float | None
) -> list[EncodeJob]:
    """Return a job for every shard that is not there yet; the first has no deadline: each call gets somewhere."""
    shared = (tokenizer, config.data, config.augmentation, config.seed)
    versions = [(name, copy) for copy in range(config.tokens.copies) for name in source.training]
    size = config.tokens.tracks_per_shard
    jobs: list[EncodeJob] = []
    for split, items in {"train": versions, "validation": [(name, 0) for name in source.validation]}.items():
        for number, start in enumerate(range(0, len(items), size)):
            path = folder / f"{split}-{number:05d}.safetensors"
            if not path.is_file():
                part, until = tuple(items[start : start + size]), deadline if jobs else None
                jobs.append(EncodeJob(*shared, path, part, until))
    return jobs


def token_tracks(folder: Path, split: str, coarsest: str) -> list[TokenizedTrack]:
    """Return the tokenised recordings of a split; frames are those of the coarsest level.

    Raises:
        DataError: If there are none, or a shard is damaged.
    """
    tracks = read_index(sorted(folder.glob(f"{split}-*.safetensors")), coarsest)
    if not tracks:
        raise DataError(f"{folder}: expected tokens of the split {split}, found none; start the pre-training again")
    return tracks


def tokens_key(config: PretrainingConfig, source: AudioSource, tokenizer: Tokenizer) -> str:
    """Return the hash of all that decides the tokens."""
    decisive = {
        "audio": source.identity,
        "augmentation": plain(config.augmentation),
        "copies": config.tokens.copies,
        "tracks_per_shard": config.tokens.tracks_per_shard,
        "seed": config.seed,
    }
    return sha256_json(decisive | tokenizer.identity())


def as_stored(model: Network, folder: Path) -> Network:
    """Give a network the weights of a finished phase as they will be stored; frozen, on the GPU if there is one."""
    restore(model, folder)
    round_to_stored(model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)


def weights_sha256(weights: Mapping[str, Tensor] | Path) -> str:
    """Return the hash of weights, or of those of a phase's folder."""
    tensors = load_weights(weights) if isinstance(weights, Path) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Opened:
    encode: Encoder
    source: AudioSource


@lru_cache(maxsize=1)
def _opened(tokenizer: Tokenizer, data: AudioConfig, _key: Path) -> _Opened:
    """Build what all jobs of a process share, once."""
    return _Opened(tokenizer.open(), open_audio(data))
