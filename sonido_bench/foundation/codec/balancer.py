"""Gradients of several losses, made comparable before they are added up (EnCodec: Défossez et al. 2022)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch import distributed as dist

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codebook import sum_over_processes

__all__ = ["Balancer"]

_TINY = 1e-12  # of a norm


class Balancer(nn.Module):
    """Weigh losses by what their gradients do at the network's output, and not by the losses' own units.

    With ``g_i`` the gradient of loss ``i`` at the output, and ``n_i`` the moving average of its norm (of an item,
    averaged over the batch and the processes), the output receives ``sum_i w_i / sum(w) * g_i / n_i``: each loss its
    share of a gradient whose norm is about 1 for each item.

    Its averages are buffers: they are a part of a checkpoint.

    Args:
        weights: Name of a loss to its share; shares need not add up to 1.
        decay: Of the moving averages, which are corrected for their start.

    Raises:
        ConfigError: If no weight is given, or one is negative, or all are 0.
    """

    totals: Tensor
    masses: Tensor

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999) -> None:
        super().__init__()
        if not weights or min(weights.values()) < 0 or not sum(weights.values()):
            raise ConfigError(f"balancer: expected weights that are not negative and not all 0, got {dict(weights)}")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        self.decay = decay
        self.register_buffer("totals", torch.zeros(len(self.weights)))
        self.register_buffer("masses", torch.zeros(len(self.weights)))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a loss whose gradient at the output is the balanced one.

        One backward pass of it, together with any other loss, suffices: that is what distributed training needs. Its
        value means nothing. The losses' graphs reach the output only, so that parameters on the way (those of a
        discriminator) get no gradient.

        Args:
            losses: Name to a scalar that depends on the output; losses without a weight are refused, and those whose
                turn has not come may be missing.
            output: ``(batch, ...)``.

        Returns:
            The loss, and the norm of each loss's gradient before balancing.

        Raises:
            ValueError: If a loss has no weight, or there is none.
        """
        unknown = sorted(set(losses) - set(self.weights))
        if unknown or not losses:
            raise ValueError(f"balancer: expected losses among {list(self.weights)}, got {list(losses)}")
        gradients = {
            name: torch.autograd.grad(loss, output, retain_graph=True)[0].detach() for name, loss in losses.items()
        }
        norms = self._norms(gradients)
        averages = self._averages(norms)
        total = sum(self.weights[name] for name in losses)
        balanced = torch.zeros_like(output)
        for name, gradient in gradients.items():
            balanced += gradient * (self.weights[name] / total / (averages[name] + _TINY))
        return (balanced * output).sum(), norms

    def _norms(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average the norm of an item's gradient over batch and processes."""
        means = torch.stack([gradient.flatten(1).float().norm(dim=1).mean() for gradient in gradients.values()])
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        means = sum_over_processes(means) / processes
        return dict(zip(gradients, means, strict=True))

    @torch.no_grad()
    def _averages(self, norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Move the averages of those losses that are there."""
        names, averages = list(self.weights), {}
        for name, norm in norms.items():
            index = names.index(name)
            self.totals[index] = self.decay * self.totals[index] + norm
            self.masses[index] = self.decay * self.masses[index] + 1
            averages[name] = self.totals[index] / self.masses[index]
        return averages
