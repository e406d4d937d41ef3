"""Linear layers on a row or a few, as a step of sampling has them: all weights are read for little arithmetic.

On a processor, what PyTorch calls for these is far from the speed of memory. One row is a weighted sum of the rows of
the turned matrix, which is what an embedding bag computes, and PyTorch's (of FBGEMM) nearly keeps up with reading. Of
24 blocks of width 512, 76 MB in float32, with one thread of a Zen 5 and torch 2.11, in milliseconds:

| rows, type | called otherwise | called here | reading alone |
| --- | --- | --- | --- |
| 1, float32 | 5.7 (MKL) | 3.2 (turned: embedding bag) | 2.7 |
| 2, float32 | 7.3 (MKL) | 4.7 (oneDNN) | 2.7 |
| 8, float32 | 8.8 (MKL) | 5.7 (turned: oneDNN) | 2.7 |
| 1, bfloat16 | 4.5 (oneDNN) | 2.1 (turned: embedding bag) | 1.9 |
| 8, bfloat16 | 4.6 (oneDNN) | the same | 1.9 |
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["few_rows_linear", "lay_out"]

_TURNED = (torch.float32, torch.bfloat16)  # rows of a turned float16 matrix take eight times as long as before
_SMALL = 2**16  # weights of a float32 matrix that MKL multiplies in the time that the others need to begin
_SHARE = 2**18  # weights that are worth a thread


@torch.no_grad()
def lay_out(module: nn.Module) -> None:
    """Turn matrices of linear layers in a processor's memory, so that one row is multiplied faster.

    They stay what they are, with other strides: inputs by outputs. They are turned in place, one after another; what
    saves them afterwards must make them contiguous first.

    Args:
        module: Any of whose weights nobody else holds; other types and what is on another device are left as they are.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and _on_processor(layer.weight) and layer.weight.is_contiguous():
            layer.weight.data = layer.weight.data.T.contiguous().T


def few_rows_linear(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """Return a linear layer as a function of ``(rows, inputs)``, without gradients.

    Args:
        weight: ``(outputs, inputs)``, on any device; must stay where it is.
        bias: ``(outputs,)``, of the same type; likewise.
        rows: That the function will be given.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    small = weight.dtype == torch.float32 and weight.numel() < _SMALL
    one_turned = rows == 1 and weight.T.is_contiguous()
    onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # what torch.compile calls for a linear layer

    def by_torch(given: Tensor) -> Tensor:
        return F.linear(given, weight, bias)

    def by_onednn(given: Tensor) -> Tensor:
        product: Tensor = onednn(given, weight, bias, "none", [], "")
        return product

    if not _on_processor(weight) or small:
        return by_torch
    if one_turned:
        return _weighted_sum(weight.T, bias) if "fbgemm" in torch.backends.quantized.supported_engines else by_torch
    return by_onednn if weight.dtype == torch.float32 and onednn is not None else by_torch


def _weighted_sum(rows: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return a function of ``(1, inputs)`` that weights ``(inputs, outputs)`` by it, and adds them up in float32.

    PyTorch gives each bag to a thread, so a large matrix is several bags.
    """
    inputs = len(rows)
    bags = max(1, min(torch.get_num_threads(), rows.numel() // _SHARE))
    indices, starts = torch.arange(inputs), torch.arange(bags) * inputs // bags

    def sum_rows(given: Tensor) -> Tensor:
        summed = torch.embedding_bag(rows, indices, starts, mode=0, per_sample_weights=given[0])[0]
        if bags > 1:
            summed = summed.sum(dim=0, keepdim=True)
        return summed if bias is None else summed.add_(bias)

    return sum_rows


def _on_processor(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in _TURNED
