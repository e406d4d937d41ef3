"""Linear layers on a row or a few, as a step of sampling has them: all weights are read for little arithmetic.

On a processor, what PyTorch calls for these is not its fastest. All matrices of 24 blocks of width 512, 76 MB in
float32, with one thread of a Zen 5 and torch 2.11, in milliseconds:

| rows, type | called otherwise | called here | reading alone |
| --- | --- | --- | --- |
| 1, float32 | 5.9 (MKL) | 4.4 (MKL, inputs by outputs) | 2.2 |
| 8, float32 | 9.0 (MKL) | 5.9 (oneDNN) | 2.2 |
| 1, bfloat16 | 4.5 (oneDNN) | 2.5 (PyTorch's own) | 1.1 |
| 8, bfloat16 | 4.9 (oneDNN) | the same | 1.1 |
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["few_rows_linear", "lay_out", "one_row_routines"]


@torch.no_grad()
def lay_out(module: nn.Module) -> None:
    """Turn float32 matrices of linear layers in a processor's memory, so that one row is multiplied faster.

    They stay what they are, with other strides: inputs by outputs. They are turned in place, one after another; what
    saves them afterwards must make them contiguous first.

    Args:
        module: Any of whose weights nobody else holds.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and _by_mkl(layer.weight) and layer.weight.is_contiguous():
            layer.weight.data = layer.weight.data.T.contiguous().T


def few_rows_linear(layer: nn.Linear, rows: int) -> Callable[[Tensor], Tensor]:
    """Return a layer as a function of ``(rows, inputs)``, without gradients; its weights must stay where they are.

    Args:
        layer: On any device.
        rows: That it will be given.
    """
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # what torch.compile calls for a linear layer
    turned = rows == 1 and weight.T.is_contiguous()
    if turned or onednn is None or not _by_mkl(weight):
        return lambda given: F.linear(given, weight, bias)

    def by_onednn(given: Tensor) -> Tensor:
        product: Tensor = onednn(given, weight, bias, "none", [], "")
        return product

    return by_onednn


@contextmanager
def one_row_routines(rows: int, weight: Tensor) -> Iterator[None]:
    """Let PyTorch multiply one row by bfloat16 weights with a routine of its own; otherwise change nothing.

    Args:
        rows: That are multiplied.
        weight: One of the weights.
    """
    if rows != 1 or weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        yield
        return
    onednn: Any = torch.backends.mkldnn  # typed as a descriptor
    before, onednn.enabled = onednn.enabled, False
    try:
        yield
    finally:
        onednn.enabled = before


def _by_mkl(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"
