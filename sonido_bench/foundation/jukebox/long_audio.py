"""Long audio through Jukebox's VQ-VAE in bounded memory, with the result that the whole would give."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

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
    return _in_windows(
        lambda start, end: vqvae.encode_level(audio[:, start * hop : end * hop], level),
        audio.shape[1] // hop, max(samples // hop, 1), margin, 1,
    )  # fmt: skip


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
    return _in_windows(
        lambda start, end: vqvae.decode(tokens[:, start:end], level),
        tokens.shape[1], max(samples // hop, 1), margin, hop,
    )  # fmt: skip


def _in_windows(run: Callable[[int, int], Tensor], frames: int, window: int, margin: int, per_frame: int) -> Tensor:
    """Join what windows give, less what stands for the margins around them.

    Args:
        run: From the first frame and one past the last, with margins, to ``(batch, (end - start) * per_frame)``.
        frames: In all.
        window: Of a window, without margins.
        margin: On either side, where there is that much.
        per_frame: Entries of the result for a frame.
    """

    def parts() -> Iterator[Tensor]:
        for start in range(0, frames, window):
            first, end = max(start - margin, 0), min(start + window, frames)
            given = run(first, min(end + margin, frames))
            yield given[:, (start - first) * per_frame : (end - first) * per_frame]

    return torch.cat(list(parts()), dim=1)
