"""Long audio through Jukebox's VQ-VAE in bounded memory, with the result that the whole would give."""

import torch
from torch import Tensor

from sonido_bench.features.windows import Window, split
from sonido_bench.foundation.jukebox.vqvae import VQVAE

__all__ = ["decode_long", "encode_long"]

_SAMPLES = 524_288  # of a window: 12 s


@torch.no_grad()
def encode_long(vqvae: VQVAE, audio: Tensor, level: int, samples: int = _SAMPLES) -> Tensor:
    """Return the tokens of one level, as ``VQVAE.encode_level``, encoding a window at a time.

    Windows have what their tokens depend on around them (``VQVAE.reach``), so that seams change nothing.

    Args:
        vqvae: A published one, not hierarchical, whose encoder of that level alone is needed.
        audio: ``(batch, samples)`` in [-1, 1], a multiple of ``vqvae.hop(level)``.
        level: Which.
        samples: Of a window, without what is around it.

    Returns:
        int64 ``(batch, samples // hop)``.

    Raises:
        ValueError: If the audio has another shape.
        DataError: If it is not finite.
    """
    hop = vqvae.hop(level)
    if audio.ndim != 2 or audio.shape[1] % hop or audio.shape[1] <= samples:
        return vqvae.encode_level(audio, level)  # it says what is wrong with a shape
    margin = -(-vqvae.reach(level) // hop)
    parts = [
        vqvae.encode_level(audio[:, part.start * hop : part.end * hop], level)[:, part.kept_frames(1)]
        for part in _windows(audio.shape[1] // hop, samples // hop, margin)
    ]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def decode_long(vqvae: VQVAE, tokens: Tensor, level: int, samples: int = _SAMPLES) -> Tensor:
    """Return audio of the tokens of one level, as ``VQVAE.decode``, decoding a window at a time.

    Args:
        vqvae: A published one, not hierarchical.
        tokens: int64 ``(batch, frames)``.
        level: Whose.
        samples: Of a window, without what is around it.

    Returns:
        ``(batch, frames * hop)``.

    Raises:
        ValueError: If the tokens have another shape or are out of range.
    """
    hop = vqvae.hop(level)
    if tokens.ndim != 2 or tokens.shape[1] * hop <= samples:
        return vqvae.decode(tokens, level)
    # A decoder mirrors its encoder: the same dilated convolutions, and at each rate a transposed convolution that looks
    # one frame of the rate below to either side where the encoder's looks half as far. All that adds less than a hop.
    margin = -(-(vqvae.reach(level) + hop) // hop) + 1
    parts = []
    for part in _windows(tokens.shape[1], samples // hop, margin):
        audio = vqvae.decode(tokens[:, part.start : part.end], level)
        parts.append(torch.unflatten(audio, 1, (-1, hop))[:, part.kept_frames(1)].flatten(1))
    return torch.cat(parts, dim=1)


def _windows(frames: int, window: int, margin: int) -> list[Window]:
    """Return windows, in frames, that have a margin on either side of what is kept, where there is that much."""
    return split(frames, max(window, 1) + 2 * margin, 2 * margin, hop=1)
