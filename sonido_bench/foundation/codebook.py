"""Codebooks learned by counting: k-means, and the moving-average codebook of VQ-VAEs with restarts (Jukebox)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from sonido_bench.errors import DataError

__all__ = [
    "CodebookOutput",
    "EMACodebook",
    "kmeans",
    "nearest",
    "perplexity",
    "sum_over_processes",
    "token_metrics",
    "token_shares",
]

_NO_COUNT = 1e-8


class CodebookOutput(NamedTuple):
    """What a codebook makes of latents.

    Attributes:
        values: ``(batch, codebooks, dim)``: what goes on through the network.
        codes: The same shape: what the latents are held against in the latent term of the loss.
        tokens: ``(batch, codebooks)`` int64: the nearest codes.
        negative_entropy: Of the posterior over codes, summed; 0 where the choice is deterministic.
    """

    values: Tensor
    codes: Tensor
    tokens: Tensor
    negative_entropy: Tensor


def nearest(points: Tensor, codes: Tensor) -> Tensor:
    """Return the index of each point's nearest code.

    Args:
        points: ``(codebooks, points, dim)``.
        codes: ``(codebooks, codebook_size, dim)``.

    Returns:
        ``(codebooks, points)`` int64.
    """
    half_norms = codes.square().sum(dim=-1) / 2
    return torch.baddbmm(half_norms.unsqueeze(1), points, codes.transpose(1, 2), alpha=-1).argmin(dim=-1)


def token_shares(tokens: Tensor, codebook_size: int) -> Tensor:
    """Return how often each code occurs: tokens ``(batch, codebooks)`` to ``(codebooks, codebook_size)``, sums 1."""
    codebooks = tokens.shape[1]
    offsets = codebook_size * torch.arange(codebooks, device=tokens.device)
    counts = torch.bincount((tokens + offsets).flatten(), minlength=codebooks * codebook_size)
    return counts.view(codebooks, codebook_size) / len(tokens)


def perplexity(shares: Tensor) -> Tensor:
    """Return ``exp(entropy)`` of ``(..., codebook_size)`` shares: how many codes are in use, in effect."""
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1)
    return entropy.exp()


def token_metrics(tokens: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """Return health figures of tokens ``(batch, codebooks)``.

    ``perplexity`` and ``used`` (share of codes) are averages over the codebooks; ``perplexity_min`` is the worst one's.
    """
    shares = token_shares(tokens, codebook_size)
    perplexities, used = perplexity(shares), (shares > 0).float().mean()
    return {"perplexity": perplexities.mean(), "perplexity_min": perplexities.min(), "used": used}


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add up a tensor, in place, over the processes of a distributed run; alone, leave it."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def kmeans(
    points: Tensor,
    k: int,
    iterations: int = 10,
    generator: torch.Generator | None = None,
    start: Literal["plus_plus", "random"] = "plus_plus",
) -> Tensor:
    """Cluster points by Lloyd's algorithm, for several codebooks at once.

    A cluster that runs empty takes the point that lies farthest from its own centre (the next empty one the second
    farthest, and so on).

    Args:
        points: ``(points, dim)``, or ``(codebooks, points, dim)``: each codebook is clustered on its own.
        k: Number of clusters.
        iterations: Of the algorithm.
        generator: Of the start; the same state gives the same centres. On the CPU, wherever the points are.
        start: ``plus_plus``: far-apart points (k-means++); ``random``: any points.

    Returns:
        Centres, ``(k, dim)`` or ``(codebooks, k, dim)``, float32.

    Raises:
        DataError: If there are fewer points than clusters, or a point is not finite.
    """
    if points.ndim == 2:
        return kmeans(points.unsqueeze(0), k, iterations, generator, start).squeeze(0)
    if points.shape[1] < k or not torch.isfinite(points).all():
        found = f"{points.shape[1]} points" if points.shape[1] < k else "points that are not finite"
        raise DataError(f"k-means: expected at least {k} finite points, found {found}; give it more audio")
    points = points.float()
    centres = _far_apart(points, k, generator) if start == "plus_plus" else _any_points(points, k, generator)
    for _ in range(iterations):
        centres = _lloyd_step(points, centres)
    return centres


def _any_points(points: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``k`` points of each codebook without replacement."""
    chosen = torch.stack([torch.randperm(points.shape[1], generator=generator)[:k] for _ in points])
    return _take(points, chosen.to(points.device))


def _far_apart(points: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``k`` points of each codebook, each with a chance proportional to its squared distance to those before."""
    draws = torch.rand(len(points), k, generator=generator, dtype=torch.float64).to(points.device)
    index = (draws[:, :1] * points.shape[1]).long()
    chosen, distances = [index], torch.full(points.shape[:2], torch.inf, device=points.device)
    for step in range(1, k):
        distances = torch.minimum(distances, (points - _take(points, index)).square().sum(dim=-1))
        mass = distances.double().cumsum(dim=1)
        index = torch.searchsorted(mass, draws[:, step : step + 1] * mass[:, -1:], right=True)
        index = index.clamp(max=points.shape[1] - 1)
        chosen.append(index)
    return _take(points, torch.cat(chosen, dim=1))


def _take(points: Tensor, index: Tensor) -> Tensor:
    """Gather ``(codebooks, n)`` indices from ``(codebooks, points, dim)``."""
    return points.gather(1, index.unsqueeze(-1).expand(-1, -1, points.shape[-1]))


def _sums(points: Tensor, tokens: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sum and count the points of each cluster: ``(codebooks, k, dim)`` and ``(codebooks, k)``."""
    codebooks, _, dim = points.shape
    flat = (tokens + k * torch.arange(codebooks, device=points.device).unsqueeze(1)).flatten()
    totals = points.new_zeros(codebooks * k, dim).index_add_(0, flat, points.reshape(-1, dim))
    counts = torch.bincount(flat, minlength=codebooks * k).to(points.dtype)
    return totals.view(codebooks, k, dim), counts.view(codebooks, k)


def _lloyd_step(points: Tensor, centres: Tensor) -> Tensor:
    k = centres.shape[1]
    tokens = nearest(points, centres)
    totals, counts = _sums(points, tokens, k)
    moved = totals / counts.clamp(min=1).unsqueeze(-1)
    if bool((counts == 0).any()):
        distances = (points - _take(centres, tokens)).square().sum(dim=-1)
        farthest = distances.topk(k, dim=1).indices
        rank = ((counts == 0).long().cumsum(dim=1) - 1).clamp(min=0)
        moved = torch.where((counts == 0).unsqueeze(-1), _take(points, farthest.gather(1, rank)), moved)
    return moved


class EMACodebook(nn.Module):
    """Codes that follow a moving average of the latents they stand for, side by side for several codebooks.

    As in Jukebox (Dhariwal et al. 2020, after van den Oord et al. 2017): codes start as random latents; sums and
    counts decay; a code whose count falls below a threshold is put on a random latent of the batch. The gradient
    passes straight through, and ``commitment`` weighs the latents' pull towards their codes.

    Args:
        codebook_size: Codes of a codebook.
        code_dim: Width of a code.
        codebooks: Side by side.
        decay: Of the moving average, per training step.
        restart_below: Count under which a code restarts; Jukebox: 1 (per batch of all processes); 0: none ever does.
        relative: Whether that threshold is in units of the count that each code would have if all were used alike.
        commitment: Weight of the squared distance of a latent to its code.
        keep_sums: Whether a code that restarts keeps its old sum, as published, which draws it back to where it died;
            otherwise the sum moves with it.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    initialised: Tensor

    def __init__(
        self,
        codebook_size: int,
        code_dim: int,
        codebooks: int = 1,
        decay: float = 0.99,
        restart_below: float = 1.0,
        relative: bool = False,
        commitment: float = 0.02,
        keep_sums: bool = False,
    ) -> None:
        super().__init__()
        self.codebook_size, self.decay, self.commitment = codebook_size, decay, commitment
        self.keep_sums = keep_sums
        self.restart_below, self.relative = restart_below, relative
        self.register_buffer("codes", torch.zeros(codebooks, codebook_size, code_dim))
        self.register_buffer("counts", torch.ones(codebooks, codebook_size))
        self.register_buffer("sums", torch.zeros(codebooks, codebook_size, code_dim))
        self.register_buffer("initialised", torch.tensor(False))

    @property
    def variance(self) -> Tensor:
        """The variance whose Gaussian term, ``distance / (2 variance)``, is the commitment term."""
        return self.codes.new_tensor(0.5 / self.commitment)

    @property
    def alive(self) -> Tensor:
        """Which codes are in use: those whose count reaches the threshold, ``(codebooks, codebook_size)`` bool."""
        threshold = self.restart_below
        if self.relative:
            threshold = threshold * float(self.counts.sum()) / self.counts.numel()
        return self.counts >= threshold

    @torch.no_grad()
    def initialise(self, latents: Tensor, codes: Tensor | None = None) -> None:
        """Start from data: the given codes, or random latents (repeated with a little noise if there are too few).

        Args:
            latents: ``(batch, codebooks, dim)``.
            codes: ``(codebooks, codebook_size, dim)``, as of k-means.
        """
        self.codes.copy_(self._candidates(latents) if codes is None else codes)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(self.codes, src=0)
        self.counts.fill_(1.0)
        self.sums.copy_(self.codes)
        self.initialised.fill_(True)

    def forward(self, latents: Tensor, temperature: float = 0.0) -> CodebookOutput:
        """Replace latents by their nearest codes; in training, also learn.

        Args:
            latents: ``(batch, codebooks, dim)``.
            temperature: Unused: the choice is deterministic. It is here to be exchangeable with the stochastic one.
        """
        points = latents.detach().float()
        if self.training and not self.initialised:
            self.initialise(points)
        tokens = nearest(points.transpose(0, 1), self.codes).transpose(0, 1)
        codes = self.embed(tokens)
        if self.training:
            self._learn(points, tokens)
        values = latents + (codes - latents).detach()
        return CodebookOutput(values, codes, tokens, latents.new_zeros(()))

    def embed(self, tokens: Tensor) -> Tensor:
        """Look codes up: ``(batch, codebooks)`` to ``(batch, codebooks, dim)``."""
        return _take(self.codes, tokens.transpose(0, 1)).transpose(0, 1)

    def restart_dead_codes(self) -> None:
        """Do nothing: dead codes restart in every training step."""

    @torch.no_grad()
    def _learn(self, points: Tensor, tokens: Tensor) -> None:
        """Move the averages, the codes, and codes out of use."""
        sums, counts = _sums(points.transpose(0, 1), tokens.transpose(0, 1), self.codebook_size)
        self.sums.lerp_(sum_over_processes(sums), 1 - self.decay)
        self.counts.lerp_(sum_over_processes(counts), 1 - self.decay)
        used = self.alive.unsqueeze(-1)
        fresh = self._candidates(points)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(fresh, src=0)
        # a count that has died away (of a code that may not restart) no longer tells a mean
        counts = self.counts.unsqueeze(-1)
        means = torch.where(counts > _NO_COUNT, self.sums / counts.clamp(min=_NO_COUNT), self.codes)
        self.codes.copy_(torch.where(used, means, fresh))
        if not self.keep_sums:
            self.sums.copy_(torch.where(used, self.sums, fresh * counts))

    def _candidates(self, points: Tensor) -> Tensor:
        """Draw a latent for each code: ``(codebooks, codebook_size, dim)``."""
        pool = points.transpose(0, 1).float()
        if pool.shape[1] < self.codebook_size:
            repeated = pool.repeat(1, -(-self.codebook_size // pool.shape[1]), 1)
            pool = repeated + torch.randn_like(repeated) * 0.01 / pool.shape[-1] ** 0.5
        return _any_points(pool, self.codebook_size, None)
