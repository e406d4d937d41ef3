"""Training of the small networks by which quantities of information are estimated."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["fit_until_worse"]

_MAX_STEPS, _STEPS_PER_CHECK, _PATIENCE = 4000, 100, 5


@torch.enable_grad()
def fit_until_worse(
    network: nn.Module, loss: Callable[[], Tensor], validation: Callable[[], float], learning_rate: float
) -> float:
    """Train by Adam until validation has not fallen for 5 looks of 100 steps each, or for 4,000 steps.

    Args:
        network: Whose parameters that want gradients are trained; it is left as validation liked it best, which may be
            as it came.
        loss: Of a fresh batch.
        validation: What is to be as small as possible; called without steps in between.
        learning_rate: Of Adam.

    Returns:
        The least validation.
    """
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr=learning_rate)
    best, waited = validation(), 0
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(1, _MAX_STEPS + 1):
        optimizer.zero_grad()
        torch.autograd.backward(loss())
        optimizer.step()
        if step % _STEPS_PER_CHECK:
            continue
        found = validation()
        waited = 0 if found < best else waited + 1
        if found < best:
            best, kept = found, {name: value.clone() for name, value in network.state_dict().items()}
        if waited == _PATIENCE:
            break
    network.load_state_dict(kept)
    return best
