"""Audio embeddings that transformers are conditioned on: from a file, or of a text."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.clap import ClapEmbedding

__all__ = ["embed_text", "read_embedding"]


def read_embedding(path: Path, dim: int) -> Tensor:
    """Read an embedding and scale it to norm 1.

    Args:
        path: ``.npy``, or ``.safetensors`` with one tensor; of ``dim`` numbers.
        dim: What the model wants.

    Returns:
        ``(1, dim)`` float32.

    Raises:
        DataError: If the file is unreadable or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            (embedding,) = load_file(path).values()
        else:
            embedding = torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, TypeError, EOFError, SafetensorError) as error:
        raise DataError(f"{path}: expected one array in .npy or .safetensors, found: {error}") from error
    embedding = embedding.float().flatten()
    if len(embedding) != dim or not torch.isfinite(embedding).all() or not embedding.any():
        raise DataError(f"{path}: expected {dim} finite numbers, not all zero, found {len(embedding)}")
    return F.normalize(embedding.unsqueeze(0), dim=1)


def embed_text(text: str, dim: int, clap: str) -> Tensor:
    """Return the CLAP embedding of a text, ``(1, dim)`` of norm 1.

    Args:
        text: What is to be heard.
        dim: What the model wants.
        clap: As ``ClapEmbedding`` has it.

    Raises:
        ConfigError: If the CLAP model cannot be had, or its embeddings do not fit.
    """
    embedding = ClapEmbedding(clap).text([text])
    if embedding.shape[1] != dim:
        raise ConfigError(f"{clap} gives embeddings of {embedding.shape[1]}, the model wants {dim}; give another CLAP")
    return embedding
