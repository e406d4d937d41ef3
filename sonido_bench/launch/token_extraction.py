"""Audio to tokens on disk, between the two stages of pre-training."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sonido_bench.datamodules.augmentation import Augmentation, AugmentationConfig
from sonido_bench.datamodules.recordings import AudioConfig, AudioSource, open_audio, read_track
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_json
from sonido_bench.foundation.checkpoint import round_to_stored
from sonido_bench.foundation.clap import ClapEmbedding
from sonido_bench.foundation.configuration import plain
from sonido_bench.foundation.sonido.config import StageOneConfig
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.sonido.tokens import TokenizedTrack, encode_track, read_index, write_tokens
from sonido_bench.launch.phase import load_weights, restore
from sonido_bench.launch.pretraining_config import PretrainingConfig

__all__ = [
    "EncodeJob",
    "check_clap",
    "encoding_jobs",
    "load_autoencoder",
    "token_tracks",
    "tokens_key",
    "weights_sha256",
]


@dataclass(frozen=True)
class EncodeJob:
    """One shard of tokens, for a pool of processes.

    Attributes:
        stage_one: The autoencoder's configuration.
        weights: Folder of the finished stage one.
        data: The audio.
        augmentation: What happens to copies other than 0.
        seed: Of the augmentation.
        path: Of the shard.
        versions: The recordings, each with the number of its copy.
        deadline: Of ``time.time()``, after which nothing is begun, or ``None``.
        clap: What embeds the audio, or ``None``.
    """

    stage_one: StageOneConfig
    weights: Path
    data: AudioConfig
    augmentation: AugmentationConfig
    seed: int
    path: Path
    versions: tuple[tuple[str, int], ...]
    deadline: float | None
    clap: str | None = None

    @property
    def label(self) -> str:
        """What a progress bar shows."""
        return self.path.stem

    def __call__(self) -> None:
        """Encode, unless the time is over."""
        if self.deadline is None or time.time() < self.deadline:
            # the folder of the tokens is named after the weights
            opened = _opened(self.stage_one, self.weights, self.data, self.clap, self.path.parent)
            encoded = ((f"{name}/{copy}", self._encode(opened, name, copy)) for name, copy in self.versions)
            write_tokens(self.path, encoded)

    def _encode(self, opened: "_Opened", name: str, copy: int) -> dict[str, np.ndarray]:
        augmentation = Augmentation()
        if copy:
            entropy = int(sha256_json([self.seed, name, copy])[:16], 16)
            augmentation = self.augmentation.draw(np.random.default_rng(entropy))
        audio = read_track(opened.source.clip(name), self.stage_one.sample_rate, augmentation)
        return encode_track(opened.model, audio, opened.clap)


def check_clap(config: PretrainingConfig) -> None:
    """Refuse a CLAP model that is not there, or whose embeddings are not as wide as the transformers want.

    Raises:
        ConfigError: One line.
    """
    if config.tokens.clap is None:
        return
    dim = ClapEmbedding(config.tokens.clap).dim
    for prior in config.model.priors:
        if prior.condition_dim not in (None, dim):
            raise ConfigError(
                f"prior {prior.level}: expected condition_dim {dim}, as {config.tokens.clap} gives, found "
                f"{prior.condition_dim}; change it, or tokens.clap"
            )


def encoding_jobs(
    config: PretrainingConfig, source: AudioSource, weights: Path, folder: Path, deadline: float | None
) -> list[EncodeJob]:
    """Return a job for every shard that is not there yet; the first has no deadline: each call gets somewhere."""
    shared = (config.model.stage_one, weights, config.data, config.augmentation, config.seed)
    versions = [(name, copy) for copy in range(config.tokens.copies) for name in source.training]
    size = config.tokens.tracks_per_shard
    jobs: list[EncodeJob] = []
    for split, items in {"train": versions, "validation": [(name, 0) for name in source.validation]}.items():
        for number, start in enumerate(range(0, len(items), size)):
            path = folder / f"{split}-{number:05d}.safetensors"
            if not path.is_file():
                part, until = tuple(items[start : start + size]), deadline if jobs else None
                jobs.append(EncodeJob(*shared, path, part, until, config.tokens.clap))
    return jobs


def token_tracks(folder: Path, split: str) -> list[TokenizedTrack]:
    """Return the tokenised recordings of a split.

    Raises:
        DataError: If there are none, or a shard is damaged.
    """
    tracks = read_index(sorted(folder.glob(f"{split}-*.safetensors")))
    if not tracks:
        raise DataError(f"{folder}: expected tokens of the split {split}, found none; start the pre-training again")
    return tracks


def tokens_key(config: PretrainingConfig, source: AudioSource, weights: Path) -> str:
    """Return the hash of all that decides the tokens."""
    decisive = {
        "weights": weights_sha256(weights),
        "audio": source.identity,
        "augmentation": plain(config.augmentation),
        "copies": config.tokens.copies,
        "tracks_per_shard": config.tokens.tracks_per_shard,
        "seed": config.seed,
    }
    if config.tokens.clap is not None:  # its weights, not its name: it may be moved, or change
        decisive["clap"] = _sha256(ClapEmbedding(config.tokens.clap).state_dict())
    return sha256_json(decisive)


def load_autoencoder(config: StageOneConfig, folder: Path) -> HQVAE:
    """Return the autoencoder of a finished stage one as it will be stored, on the GPU if there is one, frozen."""
    model = HQVAE(config)
    restore(model, folder)
    round_to_stored(model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)


def weights_sha256(folder: Path) -> str:
    """Return the hash of a phase's weights."""
    return _sha256(load_weights(folder))


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Opened:
    model: HQVAE
    source: AudioSource
    clap: ClapEmbedding | None


@lru_cache(maxsize=1)
def _opened(stage_one: StageOneConfig, weights: Path, data: AudioConfig, clap: str | None, _key: Path) -> _Opened:
    """Build what all jobs of a process share, once."""
    model = load_autoencoder(stage_one, weights)
    embedding = None if clap is None else ClapEmbedding(clap).to(next(model.parameters()).device)
    return _Opened(model, open_audio(data), embedding)
