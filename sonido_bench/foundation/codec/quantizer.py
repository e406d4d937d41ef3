"""Residual vector quantisation with codebooks that are learned by counting, the same on all processes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from sonido_bench.foundation.codebook import (
    EMACodebook,
    kmeans,
    nearest,
    sum_over_processes,
    token_metrics,
)
from sonido_bench.foundation.codec.config import QuantizerConfig

__all__ = ["Quantized", "ResidualCodebook", "ResidualQuantizer"]

_POINTS_PER_CODE = 64  # of k-means; more are thinned out
_NO_COUNT = 1e-8


class Quantized(NamedTuple):
    """What residual vector quantisation makes of latents.

    The three streams, one for each codebook, all pass their gradient on to the latents with factor 1.

    Attributes:
        values: ``(batch, dim, frames)``: the codes added up; the gradient passes straight through.
        codes: ``(batch, frames, codebooks)`` int64.
        commitment: ``(codebooks,)``: mean squared distance of what each codebook is given to its code.
        pre: ``(batch, codebooks, dim, frames)``: what each codebook is given; the latents for the first.
        post: The same shape: what each leaves over.
        straight_through: The same shape: each one's code.
    """

    values: Tensor
    codes: Tensor
    commitment: Tensor
    pre: Tensor
    post: Tensor
    straight_through: Tensor


class ResidualCodebook(EMACodebook):
    """One stage: a moving-average codebook whose dead codes start again with a count, a sum and a code that agree.

    A code dies when its count falls below ``restart_below`` times that of uniform use. It starts again on a latent of
    the batch with the count of uniform use, and so has time to win latents before it can die again. Statistics are
    those of the latents of all processes together, and the first process draws for all: processes stay equal.

    EnCodec's code restarts the code alone, and overwrites it from the old sum and count in the same step (issue 61 of
    facebookresearch/encodec), and its processes count for themselves.

    Args:
        config: Sizes and rates.
        dim: Width of a code.
    """

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__(
            config.codebook_size, dim, decay=config.decay, restart_below=config.restart_below, relative=True
        )
        self.kmeans_iterations = config.kmeans_iterations

    @torch.no_grad()
    def start(self, points: Tensor) -> None:
        """Put codes where k-means finds them among the latents of all processes.

        With fewer latents than codes, codes are latents repeated with a little noise.

        Args:
            points: ``(points, 1, dim)``, as many on each process.
        """
        pool = _from_all_processes(points)
        if len(pool) < self.codebook_size:
            self.initialise(pool)
            return
        kept = torch.randperm(len(pool))[: _POINTS_PER_CODE * self.codebook_size].to(pool.device)
        self.initialise(pool, kmeans(pool[kept].transpose(0, 1), self.codebook_size, self.kmeans_iterations))

    @torch.no_grad()
    def _learn(self, points: Tensor, tokens: Tensor) -> None:
        """Move the averages and the codes, and put dead codes on latents of the batch.

        Args:
            points: ``(points, 1, dim)`` float32.
            tokens: ``(points, 1)`` int64: their nearest codes.
        """
        counts = torch.bincount(tokens[:, 0], minlength=self.codebook_size).to(self.counts)
        sums = torch.zeros_like(self.sums[0]).index_add_(0, tokens[:, 0], points[:, 0])
        self.counts.lerp_(sum_over_processes(counts).unsqueeze(0), 1 - self.decay)
        self.sums.lerp_(sum_over_processes(sums).unsqueeze(0), 1 - self.decay)
        uniform = self.counts.mean()
        dead = self.counts < self.restart_below * uniform
        if bool(dead.any()):  # the same on all processes, so all of them gather
            self.counts.masked_fill_(dead, float(uniform))
            fresh = self._drawn(_from_all_processes(points))
            self.sums.copy_(torch.where(dead.unsqueeze(-1), fresh * uniform, self.sums))
        counts = self.counts.unsqueeze(-1)  # one that has died away tells no mean
        self.codes.copy_(torch.where(counts > _NO_COUNT, self.sums / counts.clamp(min=_NO_COUNT), self.codes))

    def _drawn(self, pool: Tensor) -> Tensor:
        """Draw a latent for each code, ``(1, codebook_size, dim)``; the first process draws for all."""
        repeats = -(-self.codebook_size // len(pool))
        chosen = torch.cat([torch.randperm(len(pool)) for _ in range(repeats)])[: self.codebook_size]
        fresh = pool[chosen.to(pool.device)].transpose(0, 1).contiguous()
        if _distributed():
            dist.broadcast(fresh, src=0)
        return fresh


class ResidualQuantizer(nn.Module):
    """Stages one after another, each coding what the ones before left over.

    A stage's code is detached before it is subtracted, so that the commitment of *every* stage pulls at the latents.
    With a code that carries a straight-through gradient, as EnCodec's had until audiocraft 1.2, that of all stages
    but the first would vanish.

    Args:
        config: Sizes and rates.
        dim: Channels of the latents, and width of a code.
    """

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__()
        self.codebook_size, self.code_dim, self.codebooks = config.codebook_size, dim, config.codebooks
        self.layers = nn.ModuleList(ResidualCodebook(config, dim) for _ in range(config.codebooks))

    @property
    def codes(self) -> Tensor:
        """All codes, ``(codebooks, codebook_size, dim)``."""
        return torch.cat([layer.codes for layer in self._stages()])

    @property
    def initialised(self) -> bool:
        """Whether all codes were started from data."""
        return all(bool(layer.initialised) for layer in self._stages())

    @torch.no_grad()
    def initialise(self, latents: Tensor) -> None:
        """Start the codes from ``(batch, dim, frames)``, stage by stage, by k-means."""
        residual = _points(latents)
        for layer in self._stages():
            layer.start(residual)
            residual = residual - layer.embed(_nearest(residual, layer))

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise; in training, also learn. See ``quantize``."""
        return self.quantize(latents, learn=self.training)

    def quantize(self, latents: Tensor, learn: bool = False) -> Quantized:
        """Replace latents by their nearest codes, in float32 whatever autocast says.

        Args:
            latents: ``(batch, dim, frames)``.
            learn: Whether the codes follow these latents, whatever mode the module is in; the first ones start them.

        Raises:
            ValueError: If the latents have another shape.
        """
        if latents.ndim != 3 or latents.shape[1] != self.code_dim:
            raise ValueError(f"expected latents (batch, {self.code_dim}, frames), got {tuple(latents.shape)}")
        if learn and not self.initialised:
            self.initialise(latents.detach())
        with torch.autocast(latents.device.type, enabled=False):
            residual = _points(latents)
            total, tokens, pre, post, straight, commitment = torch.zeros_like(residual), [], [], [], [], []
            for layer in self._stages():
                chosen = _nearest(residual, layer)
                code = layer.embed(chosen)
                if learn:
                    layer._learn(residual.detach(), chosen)
                left = residual - code
                pre.append(residual)
                post.append(left)
                straight.append(residual + (code - residual).detach())
                commitment.append(left.square().mean())
                tokens.append(chosen)
                total, residual = total + code, left
            values = pre[0] + (total - pre[0]).detach()
        batch, _, frames = latents.shape
        return Quantized(
            values=values.view(batch, frames, -1).transpose(1, 2),
            codes=torch.cat(tokens, dim=1).view(batch, frames, -1),
            commitment=torch.stack(commitment),
            pre=_stream(pre, batch),
            post=_stream(post, batch),
            straight_through=_stream(straight, batch),
        )

    def embed(self, codes: Tensor) -> Tensor:
        """Look codes up, side by side: ``(batch, frames, codebooks)`` to ``(batch, frames, codebooks * dim)``.

        Raises:
            ValueError: If the codes have another number of codebooks, or are out of range.
        """
        if codes.ndim != 3 or codes.shape[2] != self.codebooks:
            raise ValueError(f"expected codes (batch, frames, {self.codebooks}), got {tuple(codes.shape)}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(f"expected codes below {self.codebook_size}, got {codes.min()} to {codes.max()}")
        flat = codes.flatten(0, 1)
        parts = [layer.embed(flat[:, [index]]) for index, layer in enumerate(self._stages())]
        return torch.cat(parts, dim=1).reshape(*codes.shape[:2], -1)

    def values(self, codes: Tensor) -> Tensor:
        """Add codes up: ``(batch, frames, codebooks)`` to ``(batch, dim, frames)``; raises as ``embed`` does."""
        parts = self.embed(codes).view(*codes.shape, self.code_dim)
        return parts.sum(dim=2).transpose(1, 2)

    @torch.no_grad()
    def metrics(self, codes: Tensor) -> dict[str, Tensor]:
        """Return health figures of ``(batch, frames, codebooks)`` codes, see ``token_metrics``."""
        return token_metrics(codes.flatten(0, 1), self.codebook_size)

    def _stages(self) -> list[ResidualCodebook]:
        return [layer for layer in self.layers if isinstance(layer, ResidualCodebook)]


def _points(latents: Tensor) -> Tensor:
    """Map ``(batch, dim, frames)`` to ``(batch * frames, 1, dim)`` float32."""
    return latents.float().transpose(1, 2).reshape(-1, 1, latents.shape[1])


def _stream(parts: list[Tensor], batch: int) -> Tensor:
    """Stack the stages' ``(batch * frames, 1, dim)`` to ``(batch, codebooks, dim, frames)``."""
    joined = torch.cat(parts, dim=1)
    return joined.view(batch, -1, *joined.shape[1:]).permute(0, 2, 3, 1)


def _nearest(points: Tensor, layer: ResidualCodebook) -> Tensor:
    """Return the ``(points, 1)`` nearest codes of ``(points, 1, dim)``."""
    return nearest(points.detach().transpose(0, 1), layer.codes).transpose(0, 1)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _from_all_processes(points: Tensor) -> Tensor:
    """Join the processes' points, in the order of their ranks; as many from each."""
    if not _distributed():
        return points
    parts = [torch.empty_like(points) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, points.contiguous())
    return torch.cat(parts)
