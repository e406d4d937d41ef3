"""One vector for the codes of all codebooks at a position."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TokenEmbedding"]


class TokenEmbedding(nn.Module):
    """Adds up the embeddings of a position's codes, each codebook having a table of its own.

    Args:
        codebooks: Codes of a position.
        codebook_size: Rows of each table.
        width: Of an embedding.
    """

    offsets: Tensor

    def __init__(self, codebooks: int, codebook_size: int, width: int) -> None:
        super().__init__()
        self.codebooks, self.codebook_size = codebooks, codebook_size
        self.tables = nn.Parameter(torch.empty(codebooks * codebook_size, width))
        nn.init.normal_(self.tables, std=0.02)
        self.register_buffer("offsets", torch.arange(codebooks) * codebook_size, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed ``(batch, frames, codebooks)`` int64 as ``(batch, frames, width)``.

        Raises:
            ValueError: If the tokens have another shape.
        """
        if tokens.ndim != 3 or tokens.shape[2] != self.codebooks:
            raise ValueError(f"expected tokens (batch, frames, {self.codebooks}), got {tuple(tokens.shape)}")
        rows = (tokens + self.offsets).flatten(0, 1)
        return torch.unflatten(F.embedding_bag(rows, self.tables, mode="sum"), 0, tokens.shape[:2])

    @torch.no_grad()
    def initialise(self, codes: Tensor, seed: int = 0) -> None:
        """Start from the codes themselves, so that codes that sound alike start alike.

        Each codebook is centred, scaled as a whole, and projected by random directions of its own, which keeps
        distances between its codes nearly as they are.

        Args:
            codes: ``(codebooks, codebook_size, code_dim)``.
            seed: Of the projections.

        Raises:
            ValueError: If the codes have another shape.
        """
        if codes.shape[:2] != (self.codebooks, self.codebook_size):
            raise ValueError(
                f"expected codes ({self.codebooks}, {self.codebook_size}, code_dim), got {tuple(codes.shape)}"
            )
        codes = codes.float().cpu()
        centred = codes - codes.mean(dim=1, keepdim=True)
        scaled = centred / centred.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-8)
        shape = (self.codebooks, codes.shape[2], self.tables.shape[1])
        directions = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / codes.shape[2] ** 0.5
        self.tables.copy_(0.02 * (scaled @ directions).flatten(0, 1))
