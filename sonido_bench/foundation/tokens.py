"""Tokens of recordings on disk: written shard by shard, read window by window."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import Dataset

from sonido_bench.errors import DataError
from sonido_bench.files import atomic_path

__all__ = ["CONDITION", "PLACE", "TokenWindows", "TokenizedTrack", "read_index", "smallest_type", "write_tokens"]

CONDITION = "condition"
"""Key of an audio embedding, beside the names of the levels."""

PLACE = "place"
"""Key of where a window lies in its recording, beside the names of the levels."""


@dataclass(frozen=True)
class TokenizedTrack:
    """One version of a recording in a shard.

    Attributes:
        shard: The file.
        key: Within it; tensors are called ``<key>/<level>``, its audio embedding ``<key>/condition``.
        frames: Of the coarsest level.
    """

    shard: Path
    key: str
    frames: int


def write_tokens(path: Path, tracks: Iterable[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: Of the finished file.
        tracks: Key of each, and level to its tokens ``(frames, codebooks)``; an audio embedding ``(dim,)`` may stand
            beside them under ``CONDITION``. They are made while the shard is written.

    Raises:
        DataError: If it cannot be written.
    """
    tensors = {f"{key}/{level}": tokens for key, levels in tracks for level, tokens in levels.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot write tokens: {error}; make room, the same command resumes") from error


def smallest_type(codebook_size: int) -> type[np.unsignedinteger]:
    """Return the type of so many codes: uint8 where it is enough, else uint16."""
    return np.uint8 if codebook_size <= 256 else np.uint16


def read_index(shards: Sequence[Path], coarsest: str) -> list[TokenizedTrack]:
    """Return what shards hold, from their headers.

    Args:
        shards: As ``write_tokens`` writes them.
        coarsest: Level whose frames are counted.

    Raises:
        DataError: If one is truncated or no shard.
    """
    tracks = []
    for shard in shards:
        file = _open(shard)
        for name in sorted(file.keys()):
            key, _, level = name.rpartition("/")
            if level == coarsest:
                tracks.append(TokenizedTrack(shard, key, file.get_slice(name).get_shape()[0]))
    return tracks


class TokenWindows(Dataset[dict[str, Tensor]]):
    """Windows of tokens, the same stretch of time in every level; item ``n`` is the n-th draw.

    A window lies within one recording, drawn in proportion to its frames, at a random place. Where the recording is
    shorter than the window, others follow it, as in the packed training of language models.

    Args:
        tracks: What there is.
        window: Length in frames of the coarsest level.
        ratios: Levels that are wanted: frames in one frame of the coarsest.
        seed: Decides all draws.
        length: Number of items; ``None``: endless.
        condition: Also give the audio embedding of the recording, of several that of the first.
        place: Also give where the window starts and how long the recording is, of several the first.

    Raises:
        DataError: If there are no tokens.
    """

    def __init__(
        self,
        tracks: Sequence[TokenizedTrack],
        window: int,
        ratios: Mapping[str, int],
        seed: int,
        length: int | None = None,
        condition: bool = False,
        place: bool = False,
    ) -> None:
        if not tracks:
            raise DataError("expected tokens to train on, found none; encode the audio first")
        self.tracks = list(tracks)
        self.window = window
        self.ratios = dict(ratios)
        self.seed = seed
        self.length = length
        self.condition = condition
        self.place = place
        self._ends = np.cumsum([track.frames for track in self.tracks])

    def __len__(self) -> int:
        """Return the number of items that was asked for."""
        if self.length is None:
            raise TypeError("windows for training have no end")
        return self.length

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        """Return level to tokens, ``(1, window * ratio, codebooks)`` int64.

        If wanted also ``condition`` to ``(1, dim)`` float32, and ``place`` to int64 ``(1, 2)``: start and length of the
        recording, in frames of the coarsest level.
        """
        rng = np.random.default_rng((self.seed, item))
        parts: dict[str, list[np.ndarray]] = {level: [] for level in self.ratios}
        drawn: list[tuple[TokenizedTrack, int]] = []
        left = self.window
        while left:
            track = self.tracks[int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))]
            taken = min(left, track.frames)
            start = int(rng.integers(track.frames - taken + 1))
            drawn.append((track, start))
            for level, ratio in self.ratios.items():
                parts[level].append(_read(track, level, start * ratio, (start + taken) * ratio))
            left -= taken
        tokens = {
            level: torch.from_numpy(np.concatenate(arrays).astype(np.int64))[None] for level, arrays in parts.items()
        }
        track, start = drawn[0]
        if self.condition:
            tokens[CONDITION] = _read_condition(track)[None]
        if self.place:
            tokens[PLACE] = torch.tensor([[start, track.frames]])
        return tokens


def _read(track: TokenizedTrack, level: str, start: int, end: int) -> np.ndarray:
    tokens: np.ndarray = _open(track.shard).get_slice(f"{track.key}/{level}")[start:end]
    return tokens


def _read_condition(track: TokenizedTrack) -> Tensor:
    return torch.from_numpy(_open(track.shard).get_tensor(f"{track.key}/{CONDITION}")).float()


@lru_cache(maxsize=4096)
def _open(path: Path) -> Any:
    """Memory-map a shard: only what is asked for is read."""
    try:
        return cast(Any, safe_open(path, framework="np"))  # its methods have no types
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: damaged tokens ({error}); delete the file, the same command makes it anew") from error
