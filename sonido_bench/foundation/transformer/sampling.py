"""Drawing codes from the distributions that a model predicts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sonido_bench.errors import ConfigError

__all__ = ["SamplingConfig", "sample_logits"]


@dataclass(frozen=True)
class SamplingConfig:
    """How codes are drawn.

    Attributes:
        temperature: Divides the logits; 0: always the likeliest code.
        top_k: Draw among so many likeliest codes; 0: among all.
        top_p: Draw among the likeliest codes that together have this probability, in (0, 1]; 1: among all.
        guidance: Classifier-free: 1 follows the condition as learned, more exaggerates it, 0 ignores it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be 0 or more, got {self.temperature:g}")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 (all codes) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p:g}")
        if not 0 <= self.guidance < float("inf"):
            raise ConfigError(f"guidance must be 0 or more, got {self.guidance:g}")


def sample_logits(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one code of every distribution.

    Args:
        logits: ``(..., codes)``.
        temperature: As in ``SamplingConfig``, like the next two; the temperature comes first, then top-k, then top-p.
        top_k: As above.
        top_p: As above.
        generator: Of the draw; on any device.

    Returns:
        int64 ``(...)``.
    """
    logits = logits.float()
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        threshold = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # a code stays if those before it fall short of top_p, so that the likeliest always does
        ordered = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= top_p, 0.0)
        probabilities = torch.zeros_like(ordered).scatter(-1, order, ordered)
    rows = probabilities.flatten(0, -2)
    drawn = torch.multinomial(rows if generator is None else rows.to(generator.device), 1, generator=generator)
    return drawn.view(logits.shape[:-1]).to(logits.device)
