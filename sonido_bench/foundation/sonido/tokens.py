"""Tokens of a recording by SoniDo's autoencoder; on disk: see ``foundation/tokens.py``."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.audio import resample
from sonido_bench.foundation.clap import ClapEmbedding
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.tokens import CONDITION, smallest_type

__all__ = ["encode_track"]


@torch.no_grad()
def encode_track(model: HQVAE, audio: Tensor, clap: ClapEmbedding | None = None) -> dict[str, np.ndarray]:
    """Return the tokens of a recording, and its audio embedding.

    Args:
        model: The autoencoder, in evaluation mode.
        audio: Mono, ``(samples,)``, of any length above 0; the rest of the last frame is filled up with zeros.
        clap: What embeds it; ``None``: no embedding.

    Returns:
        Level to ``(frames, codebooks)``, uint8 where the codebooks allow, else uint16; with ``clap`` also
        ``condition``, ``(dim,)`` float16.
    """
    padded = F.pad(audio, (0, -len(audio) % model.common_hop))
    tokens = model.encode(padded[None].to(next(model.parameters()).device))
    encoded: dict[str, np.ndarray] = {
        level: values[0].cpu().numpy().astype(smallest_type(model.config.level(level).codebook_size))
        for level, values in tokens.items()
    }
    if clap is not None:
        heard = resample(audio, model.config.sample_rate, clap.sample_rate)
        encoded[CONDITION] = clap(heard[None])[0].cpu().numpy().astype(np.float16)
    return encoded
