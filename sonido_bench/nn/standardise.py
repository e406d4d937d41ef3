"""Standardisation by the statistics of the training set."""

import torch
from torch import Tensor, nn

__all__ = ["Network", "Standardise"]

_FLOOR = 1e-4
"""Smallest standard deviation, as a share of the largest: a bin that never moves must not be blown up."""


class Standardise(nn.Module):
    """Shift and scale every channel to mean 0 and deviation 1; the identity until statistics were gathered.

    Unlike layer normalisation it keeps a frame's level, and unlike batch normalisation it is the same in training and
    evaluation. The statistics are buffers: saved with the weights, never trained.

    Args:
        dim: Channels, the last axis.
    """

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(dim, dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take in training data of shape ``(..., dim)``; the result does not depend on how it is split into calls."""
        rows = values.reshape(-1, values.shape[-1]).double()
        total = self.count + len(rows)
        delta = rows.mean(0) - self.mean
        self.square += (rows - rows.mean(0)).square().sum(0) + delta.square() * self.count * len(rows) / total
        self.mean += delta * len(rows) / total
        self.count.copy_(total)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel, float64, floored; ones before any data."""
        deviation = (self.square / self.count.clamp_min(1)).sqrt()
        return torch.where(deviation > 0, deviation.clamp_min(_FLOOR * deviation.max()), 1.0)

    def forward(self, values: Tensor) -> Tensor:
        """Standardise ``(..., dim)``."""
        scale = self.deviation.reciprocal()
        return torch.addcmul((-self.mean * scale).to(values.dtype), values, scale.to(values.dtype))

    def inverse(self, values: Tensor) -> Tensor:
        """Undo :meth:`forward`."""
        return values * self.deviation.to(values.dtype) + self.mean.to(values.dtype)


class Network(nn.Module):
    """A task network: it begins with ``normalise``, whose statistics the task gathers from the training set."""

    normalise: Standardise
