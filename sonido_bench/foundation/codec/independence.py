"""A loss that makes the codebooks of a codec independent of each other (Lemercier et al. 2024)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sonido_bench.metrics.independence import align
from sonido_bench.metrics.kernel_independence import (
    dhsic,
    draw_order,
    median_bandwidths,
    permutation_mmd,
    split_mmd,
)

__all__ = ["Estimator", "IndependenceDiagnostics", "IndependenceLoss", "Normalization"]

Estimator = Literal["dhsic", "permutation", "split"]
Normalization = Literal["feature", "codebook"]

_MEDIAN_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_VARIANCE_FLOOR = 1e-8  # as published


class IndependenceDiagnostics(NamedTuple):
    """What lies behind a value of the loss; without gradient.

    Attributes:
        statistic: Scalar, what the loss returns.
        per_bandwidth: ``(bandwidths,)``, which add up to it.
        bandwidths: ``(bandwidths, codebooks)``: variances of the kernels, in units of the normalised streams.
        variances: ``(codebooks,)``: of the streams before normalisation, mean over dimensions. Watch it: a codebook
            that collapses to a constant is independent of all others.
        samples: How many were compared.
    """

    statistic: Tensor
    per_bandwidth: Tensor
    bandwidths: Tensor
    variances: Tensor
    samples: int


class IndependenceLoss(nn.Module):
    """Squared maximum mean discrepancy between the codebooks' joint distribution and the product of their marginals.

    Frames of all clips are the samples. It is never clamped: at small values the estimators other than dHSIC may be
    below 0, and a clamp would take their gradient away. Values of all bandwidths are added (as published), so that with
    the default five one of 0.1 is a lot. Each process computes it on its own frames.

    The loss tells marginal dependence only; the language model needs independence given the past. Nor is a low value on
    continuous streams a proof that the *codes* are independent: measure those (``metrics.independence``).

    Args:
        estimator: ``dhsic``: closed form, deterministic, with a bias of the order of ``1 / samples``; ``permutation``:
            as published, with the right number of samples; ``split``: unbiased for independent codebooks, noisier.
        bandwidths: ``median``: (1/4, 1/2, 1, 2, 4) times the median of squared distances, see ``median_bandwidths``; or
            variances that hold for all codebooks, as the published (0.1, 1, 5, 10, 20, 50). With the median rule the
            bandwidths count as constants in the gradient.
        normalize: To mean 0 and variance 1 over all frames, with gradient: ``feature``: each dimension of each codebook
            (published); ``codebook``: one mean and one variance per codebook; ``None``: nothing.
        delays: Frames by which each codebook's stream is shifted, as the language model's pattern does; ``None``: none.
        max_samples: More are thinned out at random, as the cost grows with their square; ``None``: keep all.

    Raises:
        ValueError: If an option is not one of these.
    """

    def __init__(
        self,
        estimator: Estimator = "dhsic",
        bandwidths: Literal["median"] | Sequence[float] = "median",
        normalize: Normalization | None = "feature",
        delays: Sequence[int] | None = None,
        max_samples: int | None = 1024,
    ) -> None:
        super().__init__()
        if estimator not in ("dhsic", "permutation", "split"):
            raise ValueError(f"expected estimator dhsic, permutation or split, got {estimator!r}")
        if normalize not in ("feature", "codebook", None):
            raise ValueError(f"expected normalize feature, codebook or None, got {normalize!r}")
        if bandwidths != "median" and (isinstance(bandwidths, str) or not bandwidths or min(bandwidths) <= 0):
            raise ValueError(f"expected bandwidths 'median' or positive variances, got {bandwidths!r}")
        self.estimator, self.bandwidths, self.normalize = estimator, bandwidths, normalize
        self.delays, self.max_samples = delays, max_samples

    def forward(self, streams: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the statistic, in float32 (float64 stays) whatever autocast says.

        Args:
            streams: ``(batch, codebooks, dim, frames)``, as of ``residual_streams``.
            generator: Of sub-sampling, split and permutations.

        Returns:
            Scalar.

        Raises:
            ValueError: If the streams have another shape, are not finite, or are too few after the delays.
        """
        with torch.autocast(streams.device.type, enabled=False):
            return self._per_bandwidth(*self._prepare(streams, generator), generator).sum()

    @torch.no_grad()
    def diagnose(self, streams: Tensor, generator: torch.Generator | None = None) -> IndependenceDiagnostics:
        """Return the statistic with its parts; arguments and errors as for the loss."""
        with torch.autocast(streams.device.type, enabled=False):
            samples, bandwidths = self._prepare(streams, generator)
            parts = self._per_bandwidth(samples, bandwidths, generator)
            variances = self._samples(streams).var(dim=0, correction=0).mean(dim=1)
        return IndependenceDiagnostics(parts.sum(), parts, bandwidths, variances, len(samples))

    def _samples(self, streams: Tensor) -> Tensor:
        """Check and delay streams, and return ``(batch * frames, codebooks, dim)``."""
        if streams.ndim != 4 or not streams.is_floating_point():
            raise ValueError(
                "expected floating-point streams (batch, codebooks, dim, frames), got "
                f"{tuple(streams.shape)} {streams.dtype}"
            )
        aligned = streams if self.delays is None else align(streams, self.delays)
        samples = aligned.permute(0, 3, 1, 2).flatten(0, 1)
        return samples if samples.dtype == torch.float64 else samples.float()

    def _prepare(self, streams: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return normalised samples ``(samples, codebooks, dim)``, and bandwidths ``(bandwidths, codebooks)``."""
        samples = self._normalised(self._samples(streams))
        if self.max_samples is not None and len(samples) > self.max_samples:
            samples = samples[draw_order(len(samples), samples.device, generator)[: self.max_samples]]
        if isinstance(self.bandwidths, str):
            return samples, median_bandwidths(samples, _MEDIAN_FACTORS)
        return samples, samples.new_tensor(list(self.bandwidths)).unsqueeze(1).expand(-1, samples.shape[1])

    def _normalised(self, samples: Tensor) -> Tensor:
        if self.normalize is None:
            return samples
        over = (0,) if self.normalize == "feature" else (0, 2)
        mean = samples.mean(dim=over, keepdim=True)
        variance = (samples - mean).square().mean(dim=over, keepdim=True)
        return (samples - mean) / (variance + _VARIANCE_FLOOR).sqrt()

    def _per_bandwidth(self, samples: Tensor, bandwidths: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.estimator == "dhsic":
            return dhsic(samples, bandwidths)
        if self.estimator == "permutation":
            return permutation_mmd(samples, bandwidths, generator)
        return split_mmd(samples, bandwidths, generator)
