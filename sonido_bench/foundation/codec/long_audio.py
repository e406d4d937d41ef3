"""A codec on audio of any length, in memory that does not grow.

Up to half a minute is run whole. What is longer is run in windows that overlap by two seconds: the convolutions reach
less far, and the LSTM, which starts anew in every window, has a second to come to terms before its frames are kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.features.windows import split
from sonido_bench.foundation.codec.model import Codec

__all__ = ["decode_long", "encode_long", "latents_of_long"]

_WINDOW_SECONDS, _OVERLAP_SECONDS = 30.0, 2.0


def encode_long(codec: Codec, audio: Tensor) -> Tensor:
    """Return the codes of audio; arguments and errors are those of ``latents_of_long``.

    Returns:
        ``(batch, frames, codebooks)`` int64.
    """
    return _analysed(codec, audio, codec.encode)


def latents_of_long(codec: Codec, audio: Tensor) -> Tensor:
    """Return what the codes are to stand for.

    Args:
        codec: In evaluation mode.
        audio: ``(batch, samples)`` at the codec's rate, at least one sample; padded with zeros to whole frames.

    Returns:
        ``(batch, frames, dim)`` float32.

    Raises:
        ValueError: If the audio has another shape, or is empty.
        DataError: If it holds NaN or infinity.
    """
    return _analysed(codec, audio, lambda part: codec.latents(part).transpose(1, 2))


@torch.no_grad()
def decode_long(codec: Codec, codes: Tensor, codebooks: int | None = None) -> Tensor:
    """Return the audio of codes.

    Args:
        codec: In evaluation mode.
        codes: ``(batch, frames, codebooks)``, at least one frame.
        codebooks: Whose codes are added up, so many from the first on; ``None``: all.

    Returns:
        ``(batch, samples)`` float32, whole frames; it may exceed [-1, 1].

    Raises:
        ValueError: If the codes have another shape or are out of range, or there are not so many codebooks.
    """
    count = codec.codebooks if codebooks is None else codebooks
    if not 1 <= count <= codec.codebooks or codes.ndim != 3 or not codes.shape[1]:
        raise ValueError(
            f"expected codes (batch, frames, {codec.codebooks}) and 1 to {codec.codebooks} codebooks of them, got "
            f"{tuple(codes.shape)} and {codebooks}"
        )
    parts = []
    for window in split(codes.shape[1], *_window_frames(codec), 1):
        embedded = torch.unflatten(codec.embed(codes[:, window.start : window.end]), 2, (codec.codebooks, -1))
        audio = codec.decoder(embedded[:, :, :count].sum(dim=2).transpose(1, 2))
        parts.append(torch.unflatten(audio, 1, (-1, codec.hop_length))[:, window.kept_frames(1)].flatten(1))
    return torch.cat(parts, dim=1)


@torch.no_grad()
def _analysed(codec: Codec, audio: Tensor, analyse: Callable[[Tensor], Tensor]) -> Tensor:
    """Run an analysis, which gives ``(batch, frames, ...)``, and stitch its windows."""
    hop = codec.hop_length
    padded = F.pad(audio, (0, -audio.shape[-1] % hop))
    window, overlap = _window_frames(codec)
    windows = split(padded.shape[-1], window * hop, overlap * hop, hop)
    parts = [analyse(padded[:, part.start : part.end])[:, part.kept_frames(hop)] for part in windows]
    return torch.cat(parts, dim=1)


def _window_frames(codec: Codec) -> tuple[int, int]:
    """Return length and overlap of the windows in frames."""
    return round(_WINDOW_SECONDS * codec.frame_rate), round(_OVERLAP_SECONDS * codec.frame_rate)
