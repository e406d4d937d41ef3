"""Stochastic quantisation with a learned variance (SQ-VAE, Takida et al. 2022), with residual layers as an option."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from sonido_bench.foundation.codebook import (
    CodebookOutput,
    EMACodebook,
    kmeans,
    nearest,
    sum_over_processes,
    token_metrics,
    token_shares,
)

__all__ = ["LevelQuantizer", "Quantized", "QuantizerKind", "StochasticQuantizer"]

QuantizerKind = Literal["stochastic", "ema"]

_BOUND = 3.0  # a variance stays within e^(+-3) of its start
_VARIANCE_SPEED = 5.0  # its logarithm learns so many times faster than a weight would under Adam
_VARIANCE_FLOOR = 0.05  # of the start, where latents have variance 1
_EMA_COMMITMENT, _EMA_RESTART = 0.25, 0.05
_POINTS_PER_CODE = 64  # more are not worth k-means's time


class Quantized(NamedTuple):
    """What a level's quantiser makes of latents.

    Attributes:
        values: ``(batch, frames, bands * dim)``: the sum of the residual layers' codes.
        tokens: ``(batch, frames, codebooks)`` int64, one residual layer's bands after another.
        continuous: ``|latent - code|^2 / (2 variance)``, summed over all positions of all items.
        negative_entropy: Of the posteriors, ``sum P log P``, summed likewise.
    """

    values: Tensor
    tokens: Tensor
    continuous: Tensor
    negative_entropy: Tensor


class StochasticQuantizer(nn.Module):
    """Codebooks side by side, and one variance that says how surely a latent means its nearest code.

    The posterior over codes is ``softmax(-|latent - code|^2 / (2 variance))`` (SQ-VAE, type I). In training a code is
    drawn from it by Gumbel-softmax, soft; at inference the nearest one is taken. As the reconstruction improves the
    variance shrinks by itself, and the choice turns from random to sure: all codes are in use from the start. The
    variance is bounded around its start (Ikemiya's minimal implementation of SQ-VAE bounds it from above likewise).

    Args:
        codebook_size: Codes of a codebook.
        code_dim: Width of a code.
        codebooks: Side by side.
        usage_decay: Of the moving average of how often each code is the nearest, per training step.
    """

    log_start: Tensor
    usage: Tensor

    def __init__(self, codebook_size: int, code_dim: int, codebooks: int = 1, usage_decay: float = 0.97) -> None:
        super().__init__()
        self.codebook_size, self.usage_decay = codebook_size, usage_decay
        self.codes = nn.Parameter(torch.randn(codebooks, codebook_size, code_dim))
        self.position = nn.Parameter(torch.zeros(()))  # of the log variance within its bounds
        self.register_buffer("log_start", torch.zeros(()))
        self.register_buffer("usage", torch.full((codebooks, codebook_size), 1 / codebook_size))
        self._recent: Tensor | None = None  # latents of the last training batch

    @property
    def variance(self) -> Tensor:
        """Scalar, per dimension of a code."""
        return (self.log_start + _BOUND * torch.tanh(_VARIANCE_SPEED / _BOUND * self.position)).exp()

    @torch.no_grad()
    def initialise(self, latents: Tensor, codes: Tensor | None = None) -> None:
        """Start codes and variance from data.

        Args:
            latents: ``(batch, codebooks, dim)``.
            codes: ``(codebooks, codebook_size, dim)``, as of k-means; ``None``: keep the codes.
        """
        if codes is not None:
            self.codes.copy_(codes)
        points = latents.transpose(0, 1)
        chosen = self.embed(nearest(points, self.codes).transpose(0, 1))
        error = (latents - chosen).square().mean()
        self.log_start.copy_(error.clamp(min=_VARIANCE_FLOOR).log())
        self.position.zero_()
        self.usage.fill_(1 / self.codebook_size)

    def forward(self, latents: Tensor, temperature: float = 1.0) -> CodebookOutput:
        """Quantise.

        Args:
            latents: ``(batch, codebooks, dim)`` float32.
            temperature: Of the Gumbel-softmax, above 0; unused at inference.
        """
        if not self.training:
            tokens = nearest(latents.transpose(0, 1), self.codes).transpose(0, 1)
            codes = self.embed(tokens)
            return CodebookOutput(codes, codes, tokens, latents.new_zeros(()))
        points = latents.transpose(0, 1)
        # |latent|^2 is the same for all codes and drops out
        half_norms = self.codes.square().sum(dim=-1).unsqueeze(1) / 2
        logits = (points @ self.codes.transpose(1, 2) - half_norms) / self.variance
        negative_entropy = (F.softmax(logits, dim=-1) * F.log_softmax(logits, dim=-1)).sum()
        gumbel = torch.rand_like(logits).log_().neg_().log_().neg_()  # three times as fast as exponential_ on a CPU
        codes = (F.softmax((logits + gumbel) / temperature, dim=-1) @ self.codes).transpose(0, 1)
        tokens = logits.detach().argmax(dim=-1).transpose(0, 1)
        self._observe(latents.detach(), tokens)
        return CodebookOutput(codes, codes, tokens, negative_entropy)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look codes up: ``(batch, codebooks)`` to ``(batch, codebooks, dim)``."""
        index = tokens.transpose(0, 1).unsqueeze(-1).expand(-1, -1, self.codes.shape[-1])
        return self.codes.gather(1, index).transpose(0, 1)

    @torch.no_grad()
    def restart_dead_codes(self, threshold: float = 0.2) -> None:
        """Put codes that are hardly ever the nearest on latents of the last training batch.

        Args:
            threshold: Share of use, in units of what each code would have if all were used alike, that counts as dead.
        """
        if self._recent is None:
            return
        dead = self.usage * self.codebook_size < threshold
        for codebook in dead.any(dim=1).nonzero().flatten().tolist():
            where = dead[codebook].nonzero().flatten()
            chosen = torch.randperm(len(self._recent), device=where.device)[: len(where)]
            where = where[: len(chosen)]
            self.codes[codebook, where] = self._recent[chosen, codebook]
            self.usage[codebook, where] = 1 / self.codebook_size
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(self.codes.data, src=0)

    @torch.no_grad()
    def _observe(self, latents: Tensor, tokens: Tensor) -> None:
        """Note which codes a training batch used, and its latents."""
        shares = sum_over_processes(token_shares(tokens, self.codebook_size))
        self.usage.lerp_(shares / shares.sum(dim=1, keepdim=True), 1 - self.usage_decay)
        self._recent = latents


class LevelQuantizer(nn.Module):
    """The quantisers of one level: latents cut into bands, each band coded by one or more layers of codes.

    Later layers code what the earlier ones left over (RSQ-VAE, HQ-VAE section 4): a posterior has its own layer's
    variance, and the squared error of the whole is charged once, at the last layer, with the sum of variances.
    Latents should have mean 0 and variance 1 when training starts: the floor of the variances refers to that.

    Args:
        codebook_size: Codes of a codebook.
        code_dim: Width of a code.
        bands: Parts of the latents, coded side by side.
        layers: One after another.
        kind: ``stochastic``, or ``ema``: the moving-average codebook of VQ-VAEs, for comparison.
    """

    def __init__(
        self, codebook_size: int, code_dim: int, bands: int = 1, layers: int = 1, kind: QuantizerKind = "stochastic"
    ) -> None:
        super().__init__()
        self.codebook_size, self.code_dim, self.bands = codebook_size, code_dim, bands
        self.layers = nn.ModuleList(_codebook(kind, codebook_size, code_dim, bands) for _ in range(layers))

    @property
    def codebooks(self) -> int:
        """Tokens of a frame: bands times residual layers."""
        return self.bands * len(self.layers)

    @property
    def codes(self) -> Tensor:
        """All codes, ``(codebooks, codebook_size, code_dim)``, in the order of the tokens."""
        return torch.cat([layer.codes for layer in self._codebooks()])

    @property
    def variance(self) -> Tensor:
        """Sum of the layers' variances, a scalar."""
        return torch.stack([layer.variance for layer in self._codebooks()]).sum()

    @torch.no_grad()
    def initialise(self, latents: Tensor, iterations: int = 12, generator: torch.Generator | None = None) -> None:
        """Start from data: codes by k-means, variances from what the codes leave over.

        Args:
            latents: ``(batch, frames, bands * code_dim)``, standardised; more than 64 per code are thinned out.
            iterations: Of k-means.
            generator: Of its start.

        Raises:
            DataError: If there are fewer latents than codes.
        """
        flat = latents.flatten(0, 1).float()
        kept = torch.randperm(len(flat), generator=generator)[: _POINTS_PER_CODE * self.codebook_size]
        residual = self._by_band(flat[kept.to(flat.device)].unsqueeze(0))
        for layer in self._codebooks():
            codes = kmeans(residual.transpose(0, 1), self.codebook_size, iterations, generator)
            layer.initialise(residual, codes)
            residual = residual - layer.embed(nearest(residual.transpose(0, 1), codes).transpose(0, 1))

    def forward(self, latents: Tensor, temperature: float = 1.0) -> Quantized:
        """Quantise ``(batch, frames, bands * code_dim)``, in float32 whatever autocast says.

        Args:
            latents: As the network gives them.
            temperature: Of the Gumbel-softmax in training.
        """
        with torch.autocast(latents.device.type, enabled=False):
            residual = self._by_band(latents)
            values, tokens = torch.zeros_like(residual), []
            entropy, continuous = residual.new_zeros(()), residual.new_zeros(())
            for layer in self._codebooks():
                output: CodebookOutput = layer(residual, temperature)
                # the last layer's error is that of the sum of all layers: this is overwritten until then
                continuous = (residual - output.codes).square().sum() / (2 * self.variance)
                entropy = entropy + output.negative_entropy
                values, residual = values + output.values, residual - output.values
                tokens.append(output.tokens)
        shape = latents.shape[:2]
        return Quantized(values.view(*shape, -1), torch.cat(tokens, dim=1).view(*shape, -1), continuous, entropy)

    @torch.no_grad()
    def tokens(self, latents: Tensor) -> Tensor:
        """Return the nearest codes, in training mode too: ``(batch, frames, bands * code_dim)`` to tokens."""
        return self._choose(latents)[1]

    @torch.no_grad()
    def targets(self, latents: Tensor) -> Tensor:
        """Return what each codebook is asked to code.

        Args:
            latents: ``(batch, frames, bands * code_dim)``.

        Returns:
            ``(batch, frames, codebooks * code_dim)``: the latents, and for each later layer what is left over.
        """
        return self._choose(latents)[0]

    def embed(self, tokens: Tensor) -> Tensor:
        """Look codes up, side by side: ``(batch, frames, codebooks)`` to ``(batch, frames, codebooks * code_dim)``.

        Raises:
            ValueError: If the tokens have another number of codebooks, or are out of range.
        """
        if tokens.ndim != 3 or tokens.shape[2] != self.codebooks:
            raise ValueError(f"expected tokens (batch, frames, {self.codebooks}), got {tuple(tokens.shape)}")
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.codebook_size:
            raise ValueError(f"expected tokens below {self.codebook_size}, got {tokens.min()} to {tokens.max()}")
        parts = torch.split(tokens.flatten(0, 1), self.bands, dim=1)
        looked_up = [layer.embed(part) for layer, part in zip(self._codebooks(), parts, strict=True)]
        return torch.cat(looked_up, dim=1).reshape(*tokens.shape[:2], -1)

    def values(self, tokens: Tensor) -> Tensor:
        """Return what the network goes on with: the layers' codes added up, ``(batch, frames, bands * code_dim)``."""
        return self.embed(tokens).view(*tokens.shape[:2], len(self.layers), -1).sum(dim=2)

    def restart_dead_codes(self) -> None:
        """Put codes that are hardly ever used on latents of the last training batch."""
        for layer in self._codebooks():
            layer.restart_dead_codes()

    @torch.no_grad()
    def metrics(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return health figures of ``(batch, frames, codebooks)`` tokens: those of ``token_metrics``, and variance."""
        return {**token_metrics(tokens.flatten(0, 1), self.codebook_size), "variance": self.variance.detach()}

    def _choose(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each codebook is asked to code, and the nearest codes."""
        residual, targets, tokens = self._by_band(latents), [], []
        for layer in self._codebooks():
            targets.append(residual.flatten(1))
            tokens.append(nearest(residual.transpose(0, 1), layer.codes).transpose(0, 1))
            residual = residual - layer.embed(tokens[-1])
        shape = latents.shape[:2]
        return torch.cat(targets, dim=1).view(*shape, -1), torch.cat(tokens, dim=1).view(*shape, -1)

    def _by_band(self, latents: Tensor) -> Tensor:
        """Map ``(batch, frames, bands * code_dim)`` to ``(batch * frames, bands, code_dim)`` float32."""
        return latents.float().reshape(-1, self.bands, self.code_dim)

    def _codebooks(self) -> list[StochasticQuantizer | EMACodebook]:
        return [layer for layer in self.layers if isinstance(layer, StochasticQuantizer | EMACodebook)]


def _codebook(kind: QuantizerKind, codebook_size: int, code_dim: int, bands: int) -> StochasticQuantizer | EMACodebook:
    if kind == "stochastic":
        return StochasticQuantizer(codebook_size, code_dim, bands)
    return EMACodebook(
        codebook_size, code_dim, bands, restart_below=_EMA_RESTART, relative=True, commitment=_EMA_COMMITMENT
    )
