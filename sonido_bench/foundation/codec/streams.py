"""What a codec's codebooks are asked to code, with gradient to the encoder: the input of the independence loss.

One pure function follows residual codebooks; adapters feed it the latents and codebooks of each family of codecs. No
module's quantiser runs, so that no moving average moves, whatever mode the codec is in. Codebooks and projections are
constants here: only what makes the latents has a gradient. For a codec of this project there is nothing to adapt:
``residual_streams(encoder(audio), codebooks, variant)``.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.foundation.codebook import nearest
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.sonido.level import Level

__all__ = [
    "ProjectedCodebook",
    "StreamVariant",
    "dac_codebooks",
    "dac_streams",
    "encodec_codebooks",
    "encodec_streams",
    "hqvae_streams",
    "residual_streams",
]

StreamVariant = Literal["post", "pre", "straight_through"]


class ProjectedCodebook(NamedTuple):
    """A codebook in a space of its own, reached by a projection and left by another (DAC, Kumar et al. 2023).

    Attributes:
        codes: ``(codebook_size, code_dim)``.
        in_weight: ``(code_dim, dim)``.
        in_bias: ``(code_dim,)``.
        out_weight: ``(dim, code_dim)``.
        out_bias: ``(dim,)``.
    """

    codes: Tensor
    in_weight: Tensor
    in_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor


def residual_streams(
    latents: Tensor, codebooks: Sequence[Tensor | ProjectedCodebook], variant: StreamVariant
) -> Tensor:
    """Follow the residual from codebook to codebook.

    Each codebook takes the nearest code of what the codebooks before it have left over; what it takes away has no
    gradient, so that the gradient of every stream reaches the latents unchanged (or through the projection into the
    codebook's space). Of a projected codebook the stream is in its own space, and the nearest is so by angle.

    Args:
        latents: ``(batch, dim, frames)``; in half precision they are read as float32.
        codebooks: In the order of coding: ``(codebook_size, dim)`` each, or projected ones of one ``code_dim``.
        variant: ``pre``: what enters a codebook (the paper's intention, by its authors' later change); ``post``: what
            is left after it (the paper's results); ``straight_through``: the code itself, with the gradient of ``pre``
            (what NeMo's implementation compares).

    Returns:
        ``(batch, codebooks, dim, frames)``, or ``code_dim`` in the place of ``dim``.

    Raises:
        ValueError: If shapes or the variant do not fit.
    """
    if variant not in ("post", "pre", "straight_through"):
        raise ValueError(f"expected variant post, pre or straight_through, got {variant!r}")
    if latents.ndim != 3 or not latents.is_floating_point() or not codebooks:
        raise ValueError(
            f"expected latents (batch, dim, frames) and codebooks, got {tuple(latents.shape)} {latents.dtype} and "
            f"{len(codebooks)} codebooks"
        )
    with torch.autocast(latents.device.type, enabled=False):
        residual = (latents if latents.dtype == torch.float64 else latents.float()).transpose(1, 2)
        streams = []
        for codebook in codebooks:
            entering, code, taken = _stage(residual, codebook)
            residual = residual - taken
            if variant == "pre":
                streams.append(entering)
            else:
                streams.append(entering - code if variant == "post" else entering + (code - entering).detach())
    if len({stream.shape for stream in streams}) > 1:
        raise ValueError(f"expected codes of one width, got {[stream.shape[2] for stream in streams]}")
    return torch.stack(streams, dim=1).transpose(2, 3)


def encodec_codebooks(quantizer: Any, count: int | None = None) -> list[Tensor]:
    """Return the codebooks of an ``EncodecResidualVectorQuantizer`` of ``transformers``.

    Args:
        quantizer: ``EncodecModel.quantizer``.
        count: The first so many, as a lower bandwidth has; ``None``: all.
    """
    return [layer.codebook.embed for layer in quantizer.layers[:count]]


def encodec_streams(model: Any, audio: Tensor, variant: StreamVariant, codebooks: int | None = None) -> Tensor:
    """Return the streams of an ``EncodecModel`` of ``transformers``.

    Args:
        model: With the options of its configuration; the volume is normalised where that says so.
        audio: ``(batch, channels, samples)``, at most one of the model's chunks if it works in chunks.
        variant: As for ``residual_streams``.
        codebooks: The first so many; ``None``: all.

    Returns:
        ``(batch, codebooks, codebook_dim, frames)``.

    Raises:
        ValueError: If the audio has another shape, or is longer than a chunk.
    """
    config = model.config
    _check_audio(audio, config.audio_channels)
    if config.chunk_length is not None and audio.shape[2] > config.chunk_length:
        raise ValueError(f"expected at most one chunk of {config.chunk_length} samples, got {audio.shape[2]}; cut it")
    if config.normalize:
        power = audio.mean(dim=1, keepdim=True).square().mean(dim=2, keepdim=True)
        audio = audio / (power.sqrt() + 1e-8)  # EncodecModel._encode_frame
    return residual_streams(model.encoder(audio), encodec_codebooks(model.quantizer, codebooks), variant)


def dac_codebooks(quantizer: Any, count: int | None = None) -> list[ProjectedCodebook]:
    """Return the codebooks of a ``DacResidualVectorQuantize`` of ``transformers``, with their projections.

    Args:
        quantizer: ``DacModel.quantizer``.
        count: The first so many; ``None``: all.
    """
    return [
        ProjectedCodebook(
            layer.codebook.weight,
            layer.in_proj.weight.squeeze(2),
            layer.in_proj.bias,
            layer.out_proj.weight.squeeze(2),
            layer.out_proj.bias,
        )
        for layer in quantizer.quantizers[:count]
    ]


def dac_streams(model: Any, audio: Tensor, variant: StreamVariant, codebooks: int | None = None) -> Tensor:
    """Return the streams of a ``DacModel`` of ``transformers``, in the codebooks' own spaces of 8 dimensions.

    Dropout of codebooks plays no part: all are followed.

    Args:
        model: In any mode.
        audio: ``(batch, 1, samples)``.
        variant: As for ``residual_streams``.
        codebooks: The first so many; ``None``: all.

    Returns:
        ``(batch, codebooks, codebook_dim, frames)``.

    Raises:
        ValueError: If the audio has another shape.
    """
    _check_audio(audio, 1)
    return residual_streams(model.encoder(audio), dac_codebooks(model.quantizer, codebooks), variant)


def hqvae_streams(model: HQVAE, audio: Tensor, variant: StreamVariant) -> Tensor:
    """Return the streams of SoniDo's autoencoder: of all its levels, from the coarsest to the finest.

    Levels have different frame rates. Every frame of a coarser level is repeated for as many frames of the finest one
    as it lasts: then one frame has all the codes that sound at that time, and repetition adds no false independence,
    only neighbours that share their coarse vectors. Where codes of levels differ in width the narrower are filled up
    with zeros, which changes no distance. The state that a finer level sees has no gradient, nor have codes: each level
    answers for what its own activation brings.

    Args:
        model: In any mode; nearest codes are taken, as when it encodes.
        audio: ``(batch, samples)``, a multiple of ``common_hop``.
        variant: As for ``residual_streams``.

    Returns:
        ``(batch, codebooks, code_dim, frames of the finest level)``: a level's codebooks in the order of its tokens.

    Raises:
        ValueError: If the audio has another shape.
    """
    if audio.ndim != 2 or audio.shape[1] == 0 or audio.shape[1] % model.common_hop:
        raise ValueError(
            f"expected audio (batch, samples), samples a multiple of {model.common_hop}, got {tuple(audio.shape)}"
        )
    activations = _activations(model, audio)
    state, streams = None, []
    finest = model.hop(model.levels[-1])
    for name, activation in zip(model.levels, reversed(activations), strict=True):
        stage = _level(model, name)
        state = stage.start(state).detach()
        latents = stage.latents(state, activation)
        state = stage.add(state, stage.quantizer.values(stage.quantizer.tokens(latents)).detach())
        streams.append(_level_streams(latents, stage, variant).repeat_interleave(model.hop(name) // finest, dim=3))
    width = max(stream.shape[2] for stream in streams)
    return torch.cat([F.pad(stream, (0, 0, 0, width - stream.shape[2])) for stream in streams], dim=1)


def _stage(residual: Tensor, codebook: Tensor | ProjectedCodebook) -> tuple[Tensor, Tensor, Tensor]:
    """Return what enters a codebook, its nearest code, and what that takes off the residual: ``(batch, frames, dim)``.

    Code and what it takes have no gradient.
    """
    if isinstance(codebook, Tensor):
        if codebook.ndim != 2 or codebook.shape[1] != residual.shape[2]:
            raise ValueError(f"expected codes (size, {residual.shape[2]}), got {tuple(codebook.shape)}")
        code = _nearest_codes(residual, codebook.detach().to(residual.dtype))
        return residual, code, code
    codes, in_weight, in_bias, out_weight, out_bias = (part.detach().to(residual.dtype) for part in codebook)
    if in_weight.shape[1] != residual.shape[2]:
        raise ValueError(f"expected a projection from {residual.shape[2]} dimensions, got {in_weight.shape[1]}")
    entering = F.linear(residual, in_weight, in_bias)
    directions = F.normalize(entering.detach(), dim=-1)
    code = F.embedding(_nearest_index(directions, F.normalize(codes, dim=-1)), codes)
    return entering, code, F.linear(code, out_weight, out_bias)


def _nearest_codes(points: Tensor, codes: Tensor) -> Tensor:
    return F.embedding(_nearest_index(points.detach(), codes), codes)


def _nearest_index(points: Tensor, codes: Tensor) -> Tensor:
    """``(batch, frames, dim)`` to ``(batch, frames)``."""
    return nearest(points.flatten(0, 1).unsqueeze(0), codes.unsqueeze(0)).view(points.shape[:2])


def _check_audio(audio: Tensor, channels: int) -> None:
    if audio.ndim != 3 or audio.shape[1] != channels or audio.shape[2] == 0:
        raise ValueError(f"expected audio (batch, {channels}, samples), got {tuple(audio.shape)}")


def _activations(model: HQVAE, audio: Tensor) -> list[Tensor]:
    """Return the activations ``(batch, width, frames)`` of the levels, the finest first."""
    with torch.no_grad():
        data = model.front_end(audio)
    hidden, activations = model.stem(data), []
    for name in reversed(model.levels):
        stage = _level(model, name)
        hidden = stage.encoder(stage.down(hidden))
        activations.append(hidden)
    return activations


def _level(model: HQVAE, name: str) -> Level:
    stage = model.stages[name]
    assert isinstance(stage, Level)
    return stage


def _level_streams(latents: Tensor, stage: Level, variant: StreamVariant) -> Tensor:
    """Follow each band's residual layers: ``(batch, layers * bands, code_dim, frames)``, one layer after another."""
    quantizer = stage.quantizer
    by_layer = torch.unflatten(quantizer.codes, 0, (len(quantizer.layers), quantizer.bands))
    bands = torch.unflatten(latents, 2, (quantizer.bands, quantizer.code_dim)).permute(2, 0, 3, 1)
    streams = [residual_streams(part, list(by_layer[:, band]), variant) for band, part in enumerate(bands)]
    return torch.stack(streams, dim=2).flatten(1, 2)
