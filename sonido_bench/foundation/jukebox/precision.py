"""Which of a prior's weights are kept in lower precision: nearly all of them, where it costs little.

As in OpenAI's own files, the linear layers of the blocks are lowered, 98 % of ``5b``, and here the convolutions of the
upsamplers too. LayerNorms, embeddings, places and what predicts codes stay in float32, and so does the residual stream:
what 72 blocks add to it is not rounded on the way. So do softmax and logits.
"""

import re
from typing import Literal, get_args

import torch
from torch import Tensor

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox.prior import Prior

__all__ = ["DType", "check_dtype", "in_precision", "lowered", "torch_dtype"]

DType = Literal["float32", "bfloat16", "float16"]

_LOWERED = re.compile(
    r"\.blocks\.\d+\.(?:attention\.project_(?:in|context|out)|mlp_(?:in|out))\.(?:weight|bias)$"
    r"|^upsampler\.(?:conv_in|stages)\."
)


def torch_dtype(name: DType) -> torch.dtype:
    """Return a type by its name.

    Raises:
        ConfigError: If priors cannot be in it.
    """
    if name not in get_args(DType):
        raise ConfigError(f"unknown dtype {name!r}; use one of: {', '.join(get_args(DType))}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def check_dtype(dtype: torch.dtype) -> None:
    """Refuse a type that priors cannot be in.

    Raises:
        ConfigError: If it is not one of ``DType``.
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ConfigError(f"expected dtype float32, bfloat16 or float16, got {dtype}")


def lowered(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in the precision that it has in a prior of this one.

    Args:
        name: In ``Prior``.
        tensor: Of any floating-point type.
        dtype: Of the prior.

    Raises:
        ValueError: If a finite number is beyond the range of float16.
    """
    result = tensor.to(dtype if _LOWERED.search(name) else torch.float32)
    if result.dtype == torch.float16 and not torch.isfinite(result).all():
        raise ValueError(f"{name} is beyond the range of float16; ask for bfloat16 or float32")
    return result


@torch.no_grad()
def in_precision(prior: Prior, dtype: torch.dtype) -> Prior:
    """Give a prior another precision in place, one weight after another: no two whole models are held.

    Args:
        prior: To be sampled from or read, not trained.
        dtype: float32, bfloat16 or float16.

    Returns:
        The same prior.

    Raises:
        ConfigError: If there is no such precision.
        ValueError: If a weight is beyond the range of float16; the prior is then of no use.
    """
    check_dtype(dtype)
    for name, parameter in prior.named_parameters():
        parameter.data = lowered(name, parameter.data, dtype)
    return prior
