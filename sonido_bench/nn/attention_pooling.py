"""From a sequence of tokens to one vector, with SoniDo's token-out."""

import torch
from torch import Tensor, nn

__all__ = ["AttentionPooling", "masked_max", "masked_mean", "token_out"]


def token_out(tokens: Tensor, rate: float, mask: Tensor | None = None) -> Tensor:
    """Choose at random which tokens the pooling sees: SoniDo's token-out augmentation.

    The SoniDo paper names it; its rate is not known, so it is an option here. At least one valid token always stays.

    Args:
        tokens: ``(batch, frames, dim)``; only its shape and device are used.
        rate: Expected share of the tokens to remove, in [0, 1].
        mask: ``(batch, frames)``, true where a token is valid; ``None`` where all are.

    Returns:
        ``(batch, frames)``, true where a token stays.
    """
    draw = torch.rand(tokens.shape[:2], device=tokens.device)
    if mask is not None:
        draw = draw.masked_fill(~mask, -1.0)
    keep = draw >= max(rate, 0.0)
    return keep.scatter(1, draw.argmax(1, keepdim=True), True)


def masked_mean(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the valid frames: ``(batch, frames, dim)`` to ``(batch, dim)``."""
    if mask is None:
        return tokens.mean(1)
    weights = mask.to(tokens.dtype)
    return torch.einsum("bt,btd->bd", weights / weights.sum(1, keepdim=True), tokens)


def masked_max(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Largest value over the valid frames: ``(batch, frames, dim)`` to ``(batch, dim)``."""
    if mask is not None:
        tokens = tokens + torch.zeros_like(mask, dtype=tokens.dtype).masked_fill(~mask, -torch.inf).unsqueeze(-1)
    return tokens.max(1).values  # backward a scatter, where that of amax compares every value


class AttentionPooling(nn.Module):
    """Multi-head attention of learned queries over time.

    As a query is a constant, its product with the keys is one linear map of the tokens; and as values are linear in
    the tokens, the tokens are pooled first and projected per head afterwards. The function is that of multi-head
    attention, at a fraction of its cost.

    Args:
        dim: Width of the tokens, a multiple of ``heads``.
        heads: Heads of each query.
        queries: Learned queries; the output holds ``queries * dim`` values.

    Raises:
        ValueError: If ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int = 4, queries: int = 1) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width must be a multiple of heads, got {dim} and {heads}")
        self.heads, self.queries = heads, queries
        self.logits = nn.Linear(dim, queries * heads, bias=False)
        nn.init.normal_(self.logits.weight, std=dim**-0.5)
        self.values = nn.Parameter(torch.empty(heads, dim, dim // heads))
        nn.init.normal_(self.values, std=dim**-0.5)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool over the frames.

        Args:
            tokens: ``(batch, frames, dim)``.
            mask: ``(batch, frames)``, true where a token counts; every row needs at least one.

        Returns:
            ``(batch, queries * dim)``.
        """
        logits = self.logits(tokens).transpose(1, 2)  # (batch, queries * heads, frames)
        if mask is not None:
            logits = logits.masked_fill(~mask.unsqueeze(1), -torch.inf)
        pooled = (logits.softmax(-1) @ tokens).unflatten(1, (self.queries, self.heads))
        return torch.einsum("bqhd,hdo->bqho", pooled, self.values).flatten(1)
