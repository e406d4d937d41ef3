"""How independent the codes of several codebooks are: entropies, mutual information, total correlation, in bits.

Codes are ``(batch, frames, codebooks)`` int64, of one size for all codebooks. Every frame of every clip counts as a
sample. Entropies are those of the frequencies with Miller and Madow's (1955) correction, ``+ (occupied - 1) / 2 n``
nats, which removes the bias of order ``1 / n``; it is not enough where most cells are hardly ever seen, and then a
small model judged on held-out codes takes over (``held_out``), whose figure is a lower bound.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sonido_bench.metrics.held_out import held_out_information
from sonido_bench.metrics.kernel_independence import draw_order

__all__ = [
    "CodeUse",
    "InformationMethod",
    "PairwiseInformation",
    "TotalCorrelation",
    "align",
    "code_use",
    "pairwise_information",
    "product_of_marginals",
    "total_correlation",
]

InformationMethod = Literal["auto", "plug_in", "held_out"]

_SAMPLES_PER_JOINT_CELL = 50  # occupied ones; below it the plug-in figure is too large in spite of its correction
_SAMPLES_PER_PAIR_CELL = 20  # possible ones, of the codes in use


class CodeUse(NamedTuple):
    """How codebooks are used, each ``(codebooks,)`` float64.

    Attributes:
        entropy: In bits, bias-corrected, at most log2 of the codebook's size.
        perplexity: ``2 ** entropy``: how many codes are in use, in effect.
        active: Share of codes that occur at all.
    """

    entropy: Tensor
    perplexity: Tensor
    active: Tensor


class PairwiseInformation(NamedTuple):
    """What any two codebooks tell of each other.

    Attributes:
        bits: ``(codebooks, codebooks)`` float64, symmetric, the entropies on the diagonal. Estimates of 0 scatter
            around it, and may be negative.
        normalised: The same divided by the smaller of two entropies: 1 where one codebook follows from the other; 0
            where an entropy is 0.
        method: ``plug_in``, or ``held_out`` (a lower bound on average).
    """

    bits: Tensor
    normalised: Tensor
    method: Literal["plug_in", "held_out"]


class TotalCorrelation(NamedTuple):
    """Sum of the codebooks' entropies, minus the entropy of all together.

    Attributes:
        bits: Per frame; an estimate of 0 scatters around it, and may be negative.
        method: ``plug_in``: too large, by ever less as samples grow; ``held_out``: too small on average.
        samples: Frames.
        cells: Different frames among them.
    """

    bits: float
    method: Literal["plug_in", "held_out"]
    samples: int
    cells: int


def align(streams: Tensor, delays: Sequence[int]) -> Tensor:
    """Shift each codebook's frames to later by its delay, as a delayed pattern does, and keep the frames that all have.

    Frame ``t`` of the result has codebook ``k``'s frame ``max(delays) - delays[k] + t``; no complete frame is lost.

    Args:
        streams: ``(batch, codebooks, ..., frames)``, of any kind.
        delays: Frames per codebook, at least 0; what all have in common plays no part.

    Returns:
        ``(batch, codebooks, ..., frames - (max(delays) - min(delays)))``.

    Raises:
        ValueError: If there is not one delay per codebook, one is below 0, or no frame is left.
    """
    if streams.ndim < 3 or streams.shape[1] != len(delays):
        raise ValueError(
            f"expected streams (batch, {len(delays)}, ..., frames) for {len(delays)} delays, got {tuple(streams.shape)}"
        )
    if min(delays) < 0:
        raise ValueError(f"expected delays of at least 0 frames, got {list(delays)}")
    frames = streams.shape[-1] - (max(delays) - min(delays))
    if frames < 1:
        raise ValueError(f"expected more than {streams.shape[-1] - frames} frames, got {streams.shape[-1]}")
    return torch.stack(
        [streams[:, index].narrow(-1, max(delays) - delay, frames) for index, delay in enumerate(delays)], dim=1
    )


def product_of_marginals(
    codes: Tensor, delays: Sequence[int] | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Shuffle each codebook's codes over all frames of all clips on its own: what a model without any dependence draws.

    As every codebook is shuffled by itself the delays only say which frames take part: those of ``align``.

    Args:
        codes: ``(batch, frames, codebooks)``.
        delays: As for ``align``; ``None``: none.
        generator: Of the shuffling.

    Returns:
        ``(batch, frames, codebooks)``, of as many frames as ``align`` leaves.

    Raises:
        ValueError: If codes or delays have another shape.
    """
    samples, shape = _samples(codes, None, delays)
    shuffled = [row[draw_order(len(row), row.device, generator)].view(shape) for row in samples]
    return torch.stack(shuffled, dim=2)


def code_use(codes: Tensor, codebook_size: int) -> CodeUse:
    """Return entropy, perplexity and share of active codes of each codebook.

    Args:
        codes: ``(batch, frames, codebooks)``.
        codebook_size: Of every codebook.

    Raises:
        ValueError: If the codes have another shape or are out of range.
    """
    samples, _ = _samples(codes, codebook_size, None)
    counts = torch.stack([row.bincount(minlength=codebook_size) for row in samples])
    entropy = torch.tensor([_entropy(row) for row in counts], dtype=torch.float64)
    return CodeUse(entropy, entropy.exp2(), (counts > 0).double().mean(dim=1).cpu())


def pairwise_information(
    codes: Tensor,
    codebook_size: int,
    delays: Sequence[int] | None = None,
    method: InformationMethod = "auto",
    seed: int = 0,
) -> PairwiseInformation:
    """Return the mutual information of any two codebooks.

    Args:
        codes: ``(batch, frames, codebooks)``.
        codebook_size: Of every codebook.
        delays: As for ``align``; ``None``: none.
        method: ``plug_in``, ``held_out``, or ``auto``: plug-in where there are 20 samples for every pair of codes in
            use, which a codebook of 2048 hardly ever has.
        seed: Of the held-out models.

    Raises:
        ValueError: If codes or delays have another shape, or codes are out of range.
    """
    samples, shape = _samples(codes, codebook_size, delays)
    counts = torch.stack([row.bincount(minlength=codebook_size) for row in samples])
    active = (counts > 0).sum(dim=1).sort().values.tolist()
    if method == "auto":
        enough = samples.shape[1] >= _SAMPLES_PER_PAIR_CELL * active[-1] * active[-2 if len(active) > 1 else -1]
        method = "plug_in" if enough else "held_out"
    entropies = [_entropy(row) for row in counts]
    bits = torch.diag(torch.tensor(entropies, dtype=torch.float64))
    clips = shape[0]
    for i in range(len(samples)):
        for j in range(i):
            if method == "plug_in":
                found = entropies[i] + entropies[j] - _entropy(_joint_counts(samples[[i, j]], codebook_size))
            else:
                found = held_out_information(samples[[j]], samples[i], codebook_size, clips, seed)
            bits[i, j] = bits[j, i] = found
    diagonal = bits.diagonal()
    smaller = torch.minimum(diagonal.unsqueeze(0), diagonal.unsqueeze(1))
    normalised = torch.where(smaller > 0, bits / smaller, torch.zeros_like(bits))
    return PairwiseInformation(bits, normalised, method)


def total_correlation(
    codes: Tensor,
    codebook_size: int,
    delays: Sequence[int] | None = None,
    method: InformationMethod = "auto",
    seed: int = 0,
) -> TotalCorrelation:
    """Return how many bits a frame's codes cost more if their dependence is ignored.

    Held-out: ``sum_k H(Z_k) - CE(Z_k | Z_1 .. Z_(k-1))`` with the cross-entropy of small models on codes that they have
    not seen. What they fail to learn is missing: compare codecs under one method, seed and number of frames.

    Args:
        codes: ``(batch, frames, codebooks)``.
        codebook_size: Of every codebook.
        delays: As for ``align``; ``None``: none.
        method: ``plug_in``, ``held_out``, or ``auto``: plug-in where there are 50 samples for every occupied cell.
        seed: Of the held-out models.

    Raises:
        ValueError: If codes or delays have another shape, or codes are out of range.
    """
    samples, shape = _samples(codes, codebook_size, delays)
    joint = _joint_counts(samples, codebook_size)
    count, cells = samples.shape[1], len(joint)
    if method == "auto":
        method = "plug_in" if count >= _SAMPLES_PER_JOINT_CELL * cells else "held_out"
    if method == "plug_in":
        bits = sum(_entropy(row.bincount(minlength=codebook_size)) for row in samples) - _entropy(joint)
    else:
        bits = sum(
            held_out_information(samples[:index], samples[index], codebook_size, shape[0], seed)
            for index in range(1, len(samples))
        )
    return TotalCorrelation(float(bits), method, count, cells)


def _samples(codes: Tensor, codebook_size: int | None, delays: Sequence[int] | None) -> tuple[Tensor, tuple[int, int]]:
    """Check and delay codes; return ``(codebooks, batch * frames)``, and ``(batch, frames)``."""
    if codes.ndim != 3 or codes.is_floating_point() or codes.numel() == 0:
        raise ValueError(f"expected integer codes (batch, frames, codebooks), got {tuple(codes.shape)} {codes.dtype}")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or (codebook_size is not None and high >= codebook_size):
        raise ValueError(f"expected codes from 0 to below {codebook_size}, got {low} to {high}")
    streams = codes.long().transpose(1, 2)
    aligned = streams if delays is None else align(streams, delays)
    return aligned.transpose(0, 1).flatten(1), (aligned.shape[0], aligned.shape[2])


def _joint_counts(samples: Tensor, codebook_size: int) -> Tensor:
    """Count each combination that occurs, of ``(codebooks, samples)``."""
    cells = samples[0]
    for row in samples[1:]:
        # numbered anew at every codebook: a power of the size would overflow
        cells = torch.unique(cells * codebook_size + row, return_inverse=True)[1]
    counts = cells.bincount()
    return counts[counts > 0]


def _entropy(counts: Tensor) -> float:
    """Return the entropy of counts in bits, with Miller and Madow's correction."""
    occupied = counts[counts > 0].double()
    total = occupied.sum()
    nats = total.log() - (occupied * occupied.log()).sum() / total + (len(occupied) - 1) / (2 * total)
    return float(nats) / math.log(2)
