"""Control arms: the same network without what it learned."""

from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor

__all__ = ["randomised"]

AnyExtractor = TypeVar("AnyExtractor", bound=Extractor)


def randomised(extractor: AnyExtractor, seed: int = 0) -> AnyExtractor:
    """Return a copy of an extractor whose weights are drawn afresh, named ``<name>@random``.

    It is the part ``extractor.redrawn`` that is drawn, by default all of it. Modules that can draw their weights
    (``reset_parameters``) do. What they leave as it was, parameters and learned buffers of other modules, keeps its
    values in a random order: the distribution stays, what was learned goes. Constant tensors, such as the weights of a
    fresh normalisation, stay as they are. The draw is made on the CPU, so that it does not depend on the device, and
    the global random state is left alone.

    Args:
        extractor: Is not changed.
        seed: Of the draw.

    Raises:
        ConfigError: If nothing changed: an extractor without weights has no random control.
    """
    control = deepcopy(extractor).cpu()
    part = control.redrawn
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # of the CPU alone: no other is used
        for module in part.modules():
            _reset(module)
        for name, tensor in part.state_dict().items():
            if tensor.is_floating_point() and torch.equal(tensor, before[name]):
                shuffled = tensor.flatten()[torch.randperm(tensor.numel())]
                tensor.copy_(shuffled.view_as(tensor))
    if all(torch.equal(tensor, before[name]) for name, tensor in part.state_dict().items()):
        raise ConfigError(f"{extractor.card.name} has no weights to draw afresh, so there is no such control")
    control.card = replace(extractor.card, name=f"{extractor.card.name}@random", weights_licence="none")
    return control.to(extractor.device).eval().requires_grad_(False)


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
