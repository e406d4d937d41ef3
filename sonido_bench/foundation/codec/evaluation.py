"""What a codec's codes are worth: how dependent they are, how well they sound, what a language model pays for them."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.audio import resample
from sonido_bench.features.extractor import Extractor
from sonido_bench.foundation.codec.language_model import LanguageModel
from sonido_bench.foundation.codec.loss import MultiScaleMelLoss
from sonido_bench.foundation.codec.model import Codec
from sonido_bench.foundation.codec.sampling import sample
from sonido_bench.foundation.sonido.objective import si_snr
from sonido_bench.foundation.transformer.sampling import SamplingConfig
from sonido_bench.metrics.frechet import frechet_distance_of_embeddings
from sonido_bench.metrics.independence import (
    InformationMethod,
    code_use,
    pairwise_information,
    product_of_marginals,
    total_correlation,
)
from sonido_bench.metrics.kernel_independence import draw_order
from sonido_bench.metrics.sample_distance import nearest_neighbour_precision, sliced_wasserstein

__all__ = [
    "Dependence",
    "Distances",
    "MarginalsGap",
    "Reconstruction",
    "SampledMusic",
    "bits_per_frame",
    "dependence",
    "distances",
    "embeddings",
    "encode",
    "marginals_gap",
    "reconstruction",
    "sampled_music",
]

_PROJECTIONS = 128  # of the sliced Wasserstein distance


class Dependence(NamedTuple):
    """How dependent the codes of a frame are, and how they are used.

    Attributes:
        total_correlation: In bits per frame.
        method: By which that was found; figures of two methods do not compare.
        pairwise: Mean mutual information of two codebooks, in bits.
        perplexities: Of each codebook. Read them beside the rest: a codebook that collapses is independent.
        active: Share of each codebook's codes that occur.
    """

    total_correlation: float
    method: str
    pairwise: float
    perplexities: list[float]
    active: list[float]


class Reconstruction(NamedTuple):
    """How well a codec reconstructs.

    Attributes:
        mel: Multi-scale mel loss, as in training.
        l1: Mean absolute difference of samples.
        si_snr: In dB, mean over items.
    """

    mel: float
    l1: float
    si_snr: float


class Distances(NamedTuple):
    """How far audio is from other audio, in an extractor's features.

    Attributes:
        frechet: Fréchet distance.
        wasserstein: Sliced 2-Wasserstein distance.
        precision: Share of points among the reference's, see ``nearest_neighbour_precision``.
    """

    frechet: float
    wasserstein: float
    precision: float


class MarginalsGap(NamedTuple):
    """Audio of codes whose dependence was destroyed, beside plain reconstructions.

    Attributes:
        product: Distances of the product of marginals to the reference: no dependence, no order in time.
        joint: Those of whole frames in random order: dependence, no order.
        plain: Those of reconstructions of the same frames: both.
    """

    product: Distances
    joint: Distances
    plain: Distances

    @property
    def gap(self) -> Distances:
        """``product`` minus ``plain``: what is lost with dependence and order. Of the precision, it is negative."""
        return Distances(*(ours - theirs for ours, theirs in zip(self.product, self.plain, strict=True)))

    @property
    def dependence(self) -> Distances:
        """``product`` minus ``joint``: what is lost with the dependence alone."""
        return Distances(*(ours - theirs for ours, theirs in zip(self.product, self.joint, strict=True)))


class SampledMusic(NamedTuple):
    """Music that a language model drew.

    Attributes:
        audio: ``(items, samples)``.
        steps: Calls of the transformer, one after another.
        seconds_per_second: Of computing (wall clock, one batch of all items, decoding included) per second of an item.
    """

    audio: Tensor
    steps: int
    seconds_per_second: float


@torch.no_grad()
def encode(codec: Codec, audio: Tensor, batch_size: int = 16) -> Tensor:
    """Return the codes of ``(items, samples)``, a few items at a time: ``(items, frames, codebooks)``."""
    return torch.cat([codec.encode(part) for part in torch.split(audio, batch_size)])


def dependence(
    codes: Tensor,
    codebook_size: int,
    delays: Sequence[int] | None = None,
    method: InformationMethod = "auto",
    pair_method: InformationMethod = "auto",
    seed: int = 0,
) -> Dependence:
    """Return how dependent codes are.

    Args:
        codes: ``(items, frames, codebooks)``, at least two codebooks.
        codebook_size: Of every codebook.
        delays: In frames, as of a language model's pattern; ``None``: codes of the same frame.
        method: As for ``total_correlation``.
        pair_method: As for ``pairwise_information``.
        seed: Of the held-out models.

    Raises:
        ValueError: If codes or delays have another shape, there is one codebook only, or codes are out of range.
    """
    if codes.ndim == 3 and codes.shape[2] < 2:
        raise ValueError(f"expected codes of 2 codebooks or more, got {codes.shape[2]}")
    total = total_correlation(codes, codebook_size, delays, method, seed)
    pairs = pairwise_information(codes, codebook_size, delays, pair_method, seed).bits
    use = code_use(codes, codebook_size)
    rows, columns = torch.tril_indices(len(pairs), len(pairs), offset=-1)
    return Dependence(
        total.bits, total.method, float(pairs[rows, columns].mean()), use.perplexity.tolist(), use.active.tolist()
    )


@torch.no_grad()
def reconstruction(codec: Codec, audio: Tensor, batch_size: int = 16) -> Reconstruction:
    """Return how well a codec in evaluation mode reconstructs ``(items, samples)`` at its sample rate."""
    mel_loss = MultiScaleMelLoss(codec.sample_rate).to(audio.device)
    totals = torch.zeros(3, dtype=torch.float64)
    for part in torch.split(audio, batch_size):
        estimate = codec.decode(codec.encode(part), part.shape[1])
        figures = (mel_loss(part, estimate), F.l1_loss(estimate, part), si_snr(part, estimate).mean())
        totals += len(part) * torch.stack(figures).double().cpu()
    return Reconstruction(*(totals / len(audio)).tolist())


@torch.no_grad()
def embeddings(extractor: Extractor, audio: Tensor, sample_rate: int, batch_size: int = 16) -> Tensor:
    """Return each item's mean features, all streams side by side.

    Args:
        extractor: Any.
        audio: ``(items, samples)``.
        sample_rate: Of the audio, in Hz; it is resampled where the extractor wants another.
        batch_size: Items at a time.

    Returns:
        ``(items, dim)`` float64.
    """
    means = []
    for part in torch.split(audio, batch_size):
        streams = extractor.extract(resample(part, sample_rate, extractor.spec.sample_rate))
        means.append(torch.cat([stream.double().mean(dim=1) for stream in streams.values()], dim=1))
    return torch.cat(means)


def distances(reference: Tensor, estimate: Tensor, seed: int = 0) -> Distances:
    """Compare two sets of embeddings, ``(items, dim)``; compare figures of equally many items only.

    Raises:
        ValueError: If the sets do not fit together or are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    frechet = frechet_distance_of_embeddings(reference.cpu().numpy(), estimate.cpu().numpy(), allow_few_items=True)
    wasserstein = sliced_wasserstein(reference, estimate, _PROJECTIONS, generator)
    return Distances(frechet, wasserstein, nearest_neighbour_precision(reference, estimate))


@torch.no_grad()
def marginals_gap(
    codec: Codec,
    codes: Tensor,
    audio: Tensor,
    extractor: Extractor,
    delays: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> MarginalsGap:
    """Shuffle each codebook's codes on its own, decode, and see how far that is from music, beside reconstructions.

    Codes shuffled in each codebook have neither dependence between codebooks nor order in time; reconstructions have
    both. Between the two stand frames that are shuffled whole.

    Args:
        codec: In evaluation mode.
        codes: ``(items, frames, codebooks)``: of the audio.
        audio: The reference, ``(any items, samples)``.
        extractor: Of the features.
        delays: As for ``dependence``; they decide which frames take part.
        seed: Of the shuffling and the distances.
        batch_size: Items decoded at a time.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = product_of_marginals(codes, delays, generator)
    plain = codes[:, : shuffled.shape[1]]
    frames = plain.flatten(0, 1)
    joint = frames[draw_order(len(frames), frames.device, generator)].view_as(plain)
    reference = embeddings(extractor, audio, codec.sample_rate, batch_size)
    found = []
    for variant in (shuffled, joint, plain):
        decoded = torch.cat([codec.decode(part) for part in torch.split(variant, batch_size)])
        found.append(distances(reference, embeddings(extractor, decoded, codec.sample_rate, batch_size), seed))
    return MarginalsGap(*found)


@torch.no_grad()
def bits_per_frame(model: LanguageModel, codes: Tensor, frames: int, batch_size: int = 16) -> float:
    """Return what a language model in evaluation mode pays for codes.

    The price of a factorisation is this figure of the parallel or delayed model, minus that of a flattened one that
    learned the same codes as well; ``price_of_factorisation`` wants no second model.

    Args:
        model: Without condition.
        codes: ``(items, frames, codebooks)``.
        frames: Of the windows into which items are cut, side by side; a rest is left out.
        batch_size: Windows at a time.

    Raises:
        ValueError: If a window is longer than the items or the model's context.
    """
    if not 0 < frames <= codes.shape[1]:
        raise ValueError(f"expected windows of 1 to {codes.shape[1]} frames, got {frames}")
    whole = codes.shape[1] // frames
    windows = torch.unflatten(codes[:, : whole * frames], 1, (whole, frames)).flatten(0, 1)
    total = 0.0
    for part in torch.split(windows, batch_size):
        total += len(part) * float(model.cross_entropy(part).bits_per_frame)
    return total / len(windows)


@torch.no_grad()
def sampled_music(
    model: LanguageModel, codec: Codec, items: int, frames: int, sampling: SamplingConfig, seed: int = 0
) -> SampledMusic:
    """Draw music from the start, and take the time.

    Args:
        model: In evaluation mode, without condition.
        codec: Likewise, whose codes the model knows.
        items: To draw at once.
        frames: Of each.
        sampling: How codes are drawn.
        seed: Of the draws.
    """
    start = time.perf_counter()
    prompt = torch.zeros(items, 0, codec.codebooks, dtype=torch.long)
    drawn = sample(model, frames, prompt, sampling=sampling, generator=torch.Generator().manual_seed(seed))
    audio = codec.decode(drawn.codes)
    seconds = time.perf_counter() - start
    return SampledMusic(audio, drawn.steps, seconds * codec.frame_rate / frames)
