"""How dependent several vectors are, by Gaussian kernels: dHSIC (Pfister et al. 2018) and its permuted estimates.

All estimate the squared maximum mean discrepancy between the joint distribution of vectors ``Z_1 .. Z_K`` and the
product of their marginals. The kernel of the joint is Gaussian with one bandwidth per vector, so that it is the product
of kernels of the single vectors, which is what makes a closed form possible. The bandwidth is a variance:
``exp(-|u - v|^2 / (2 bandwidth))``. Everything is differentiable, and nothing is clamped.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["dhsic", "dhsic_p_value", "draw_order", "median_bandwidths", "permutation_mmd", "split_mmd"]

_CHUNK_ELEMENTS = 2**24  # kernel values held at a time: 64 MiB of float32
_MEDIAN_SAMPLES = 512  # their 130,816 pairs give the median to about half a percent


def median_bandwidths(samples: Tensor, factors: Sequence[float]) -> Tensor:
    """Return bandwidths that fit the data's scale: ``factor * K * median(|x_i - x_j|^2) / 2``, of each vector.

    The factor ``K`` makes the kernel of the joint ``exp(-1 / factor)`` for a pair that is typical in all ``K`` vectors,
    however many there are. Medians of the single vectors alone would make it ``exp(-K / factor)``, blind for large
    ``K``; one median of the joint would let the vector with the largest variance hide the others. Where all vectors
    have the same scale this is the joint's median rule.

    Args:
        samples: ``(samples, K, dim)``; more than 512 are thinned out evenly.
        factors: Of the medians, above 0.

    Returns:
        ``(factors, K)`` without gradient. A vector of which half of all pairs are equal, as codes can be, takes the
        mean in the median's place; one that is constant, 1.
    """
    with torch.no_grad():
        chosen = samples[:: -(-len(samples) // _MEDIAN_SAMPLES)].transpose(0, 1)
        pairs = torch.triu_indices(chosen.shape[1], chosen.shape[1], offset=1, device=samples.device)
        distances = _squared_distances(chosen, chosen)[:, pairs[0], pairs[1]]
        typical, mean = distances.median(dim=1).values, distances.mean(dim=1)
        typical = torch.where(typical > 1e-6 * mean, typical, mean)
        typical = torch.where(typical > 0, typical * samples.shape[1] / 2, torch.ones_like(typical))
        return typical.new_tensor(factors).unsqueeze(1) * typical


def dhsic(samples: Tensor, bandwidths: Tensor) -> Tensor:
    """Return dHSIC in closed form, the V-statistic of Pfister et al. (2018), section 4.

    ``mean_ij prod_k G + prod_k mean_ij G - 2 mean_i prod_k mean_j G`` with ``G`` the kernel matrix of vector ``k``. It
    is deterministic and at least 0; for independent vectors its mean is of the order of ``1 / samples``.

    Args:
        samples: ``(samples, K, dim)`` floating point.
        bandwidths: ``(bandwidths, K)``.

    Returns:
        ``(bandwidths,)``.

    Raises:
        ValueError: If the shapes do not fit, a sample is not finite, or there are too few.
    """
    _check(samples, bandwidths)
    chunks = _over_rows(_row_means, samples, samples, bandwidths)
    rows = torch.cat(chunks, dim=-1)  # (bandwidths, K + 1, samples): the single kernels, then the joint's
    single, joint = rows[:, :-1], rows[:, -1]
    return joint.mean(dim=1) + single.mean(dim=2).prod(dim=1) - 2 * single.prod(dim=1).mean(dim=1)


def permutation_mmd(samples: Tensor, bandwidths: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Compare the samples with themselves, every vector permuted on its own (Lemercier et al. 2024).

    The number of samples is that of the rows (the released code takes the number of clips, which inflates it by the
    squared number of frames). As both sets hold the same vectors the mean for independent ones is below 0, by the order
    of ``1 / samples``.

    Args:
        samples: ``(samples, K, dim)`` floating point.
        bandwidths: ``(bandwidths, K)``.
        generator: Of the permutations.

    Returns:
        ``(bandwidths,)``.

    Raises:
        ValueError: As for ``dhsic``.
    """
    _check(samples, bandwidths)
    return _unbiased_mmd(samples, _permuted(samples, generator), bandwidths)


def split_mmd(samples: Tensor, bandwidths: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Compare a random half of the samples with the other half, every vector permuted on its own.

    The mean is 0 for independent vectors; for others it is the population's value but for the order of
    ``1 / samples``, as a permuted half still pairs some vectors of one sample. The price is a larger variance.

    Args:
        samples: ``(samples, K, dim)`` floating point; of an odd number one is left out.
        bandwidths: ``(bandwidths, K)``.
        generator: Of the split and the permutations.

    Returns:
        ``(bandwidths,)``.

    Raises:
        ValueError: As for ``dhsic``.
    """
    _check(samples, bandwidths)
    half = len(samples) // 2
    order = draw_order(len(samples), samples.device, generator)
    first, second = samples[order[:half]], samples[order[half : 2 * half]]
    return _unbiased_mmd(first, _permuted(second, generator), bandwidths)


def dhsic_p_value(
    samples: Tensor,
    factors: Sequence[float] = (1.0,),
    permutations: int = 199,
    generator: torch.Generator | None = None,
) -> float:
    """Test independence: how often vectors permuted on their own have a dHSIC at least as large.

    Args:
        samples: ``(samples, K, dim)``. They must be independent of each other: take a few frames of each clip, at
            random, rather than neighbours. A few hundred are enough; memory is ``K * samples^2``.
        factors: Of the medians, as for ``median_bandwidths``; their statistics are added.
        permutations: More give a finer p-value, at least ``1 / (permutations + 1)``.
        generator: Of the permutations.

    Returns:
        In (0, 1]; exact in the sense that under independence it is below ``p`` with a chance of at most ``p``.

    Raises:
        ValueError: As for ``dhsic``, or without permutations.
    """
    if permutations < 1:
        raise ValueError(f"expected at least 1 permutation, got {permutations}")
    with torch.no_grad():
        bandwidths = median_bandwidths(samples, factors)
        _check(samples, bandwidths)
        vectors = samples.transpose(0, 1)
        # float64: permuted statistics differ from each other by far less than their terms
        distances = _squared_distances(vectors, vectors).double()
        grams = [torch.exp(-distances / (2 * row.view(-1, 1, 1))) for row in bandwidths]
        orders = torch.arange(len(samples), device=samples.device).expand(samples.shape[1], -1)
        observed = _gram_statistic(grams, orders)
        above = 0
        for _ in range(permutations):
            orders = torch.stack([draw_order(len(samples), samples.device, generator) for _ in vectors])
            above += int(_gram_statistic(grams, orders) >= observed * (1 - 1e-12))
    return (above + 1) / (permutations + 1)


def draw_order(count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Return a random permutation on a device; the generator may live elsewhere, as on the CPU."""
    source = device if generator is None else generator.device
    return torch.randperm(count, generator=generator, device=source).to(device)


def _check(samples: Tensor, bandwidths: Tensor) -> None:
    if samples.ndim != 3 or samples.shape[1] < 2 or not samples.is_floating_point():
        raise ValueError(
            "expected floating-point samples (samples, K, dim) of at least 2 vectors, got "
            f"{tuple(samples.shape)} {samples.dtype}"
        )
    if bandwidths.ndim != 2 or bandwidths.shape[1] != samples.shape[1] or not bool((bandwidths > 0).all()):
        raise ValueError(
            f"expected positive bandwidths (bandwidths, {samples.shape[1]}), got shape {tuple(bandwidths.shape)}"
        )
    if len(samples) < max(4, 2 * samples.shape[1]):  # 2 K: below it dHSIC is not defined (Pfister et al.)
        raise ValueError(
            f"expected at least {max(4, 2 * samples.shape[1])} samples for {samples.shape[1]} vectors, got "
            f"{len(samples)}; give it more frames or a larger batch"
        )
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("samples are not finite; look at the latents before this step")


def _squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    """``(..., rows, dim)`` and ``(..., columns, dim)`` to ``(..., rows, columns)``; unlike cdist smooth at 0."""
    norms = rows.square().sum(dim=-1).unsqueeze(-1) + columns.square().sum(dim=-1).unsqueeze(-2)
    return (norms - 2 * rows @ columns.transpose(-1, -2)).clamp(min=0)


def _row_means(rows: Tensor, columns: Tensor, bandwidths: Tensor) -> Tensor:
    """Return means over the columns, of the ``K`` kernels and then the joint's: ``(bandwidths, K + 1, rows)``."""
    distances = _squared_distances(rows.transpose(0, 1), columns.transpose(0, 1))
    means = []
    for row in bandwidths:
        exponents = distances / (-2 * row.view(-1, 1, 1))
        joint = exponents.sum(dim=0).exp().mean(dim=1)
        means.append(torch.cat([exponents.exp().mean(dim=2), joint.unsqueeze(0)]))
    return torch.stack(means)


def _joint_sums(rows: Tensor, columns: Tensor, bandwidths: Tensor) -> Tensor:
    """Return the sums over the columns of the joint's kernel: ``(bandwidths, rows)``."""
    sums = []
    for row in bandwidths:
        scale = (2 * row).rsqrt().view(1, -1, 1)
        distances = _squared_distances((rows * scale).flatten(1), (columns * scale).flatten(1))
        sums.append((-distances).exp().sum(dim=1))
    return torch.stack(sums)


def _over_rows(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], rows: Tensor, columns: Tensor, bandwidths: Tensor
) -> list[Tensor]:
    """Apply a function to some rows at a time; their kernel values are computed again for the gradient, not kept."""
    height = max(1, _CHUNK_ELEMENTS // (len(columns) * (rows.shape[1] + 1) * len(bandwidths)))
    parts = torch.split(rows, height)
    if len(parts) == 1 or not torch.is_grad_enabled():
        return [function(part, columns, bandwidths) for part in parts]
    run: Any = checkpoint
    return [run(function, part, columns, bandwidths, use_reentrant=False, preserve_rng_state=False) for part in parts]


def _unbiased_mmd(first: Tensor, second: Tensor, bandwidths: Tensor) -> Tensor:
    """Compare two sets of samples; a sample is not compared with itself."""

    def total(rows: Tensor, columns: Tensor) -> Tensor:
        return torch.cat(_over_rows(_joint_sums, rows, columns, bandwidths), dim=1).sum(dim=1)

    n, m = len(first), len(second)
    within = (total(first, first) - n) / (n * (n - 1)) + (total(second, second) - m) / (m * (m - 1))
    return within - 2 * total(first, second) / (n * m)


def _permuted(samples: Tensor, generator: torch.Generator | None) -> Tensor:
    """Permute every vector over the samples on its own."""
    orders = [draw_order(len(samples), samples.device, generator) for _ in range(samples.shape[1])]
    return torch.stack([samples[order, index] for index, order in enumerate(orders)], dim=1)


def _gram_statistic(grams: Sequence[Tensor], orders: Tensor) -> float:
    """Return dHSIC, added over bandwidths, from kernel matrices ``(K, samples, samples)`` and an order per vector."""
    total = 0.0
    for gram in grams:
        permuted = [matrix[order][:, order] for matrix, order in zip(gram, orders, strict=True)]
        joint, means = permuted[0].clone(), permuted[0].mean(dim=1)
        for matrix in permuted[1:]:
            joint *= matrix
            means = means * matrix.mean(dim=1)
        total += float(joint.mean() + gram.mean(dim=(1, 2)).prod() - 2 * means.mean())
    return total
