"""What codes tell of another code, by a small model that is judged on codes it has not seen: a lower bound."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.metrics.fitting import fit_until_worse

__all__ = ["held_out_information"]

_WIDTH, _BATCH, _LEARNING_RATE = 128, 512, 3e-3
_TRAIN, _VALIDATION = 0.7, 0.1  # shares; the rest is held out
_MIN_SAMPLES = 100


class _Predictor(nn.Module):
    """Log probabilities of a code from others; untrained, those of its frequencies."""

    def __init__(self, codebooks: int, marginal: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        size = len(marginal)
        self.offsets: Tensor
        self.register_buffer("offsets", size * torch.arange(codebooks).unsqueeze(1))
        self.embedding = nn.Parameter(torch.randn(codebooks * size, _WIDTH, generator=generator))
        self.hidden = nn.Parameter(torch.randn(_WIDTH, _WIDTH, generator=generator) / math.sqrt(_WIDTH))
        self.hidden_bias = nn.Parameter(torch.zeros(_WIDTH))
        self.out = nn.Parameter(torch.zeros(size, _WIDTH))
        self.out_bias = nn.Parameter(marginal.log())

    def forward(self, context: Tensor) -> Tensor:
        """Map ``(codebooks, samples)`` to logits ``(samples, size)``."""
        embedded = F.embedding(context + self.offsets, self.embedding).sum(dim=0) / math.sqrt(len(context))
        hidden = F.gelu(F.linear(F.gelu(embedded), self.hidden, self.hidden_bias))
        return F.linear(hidden, self.out, self.out_bias)


def held_out_information(context: Tensor, target: Tensor, codebook_size: int, clips: int = 1, seed: int = 0) -> float:
    """Return in bits what the context tells of the target: ``H(target) - CE(target | context)`` on held-out samples.

    Of the samples 70 % train a network of two layers, 10 % say when to stop, and the rest gives the estimate: the
    entropy of its own frequencies (with Miller and Madow's correction) minus the model's cross-entropy. The latter is
    on average at least the true conditional entropy, so that the estimate is on average too small, for independent
    codes slightly below 0. Parts are whole clips where possible: neighbours in time resemble each other, and would
    otherwise lie on both sides.

    Args:
        context: ``(codebooks, samples)`` int64, at least one codebook.
        target: ``(samples,)`` int64.
        codebook_size: Of all.
        clips: Samples are so many clips of equal length, one after another.
        seed: Of the model, its training and the choice of clips.

    Returns:
        Bits per sample.

    Raises:
        ValueError: If the shapes do not fit, or there are fewer than 100 samples.
    """
    if context.ndim != 2 or not len(context) or target.shape != context.shape[1:] or len(target) % clips:
        raise ValueError(
            f"expected context (codebooks, samples) and target (samples,) of {clips} clips, got "
            f"{tuple(context.shape)} and {tuple(target.shape)}"
        )
    if len(target) < _MIN_SAMPLES:
        raise ValueError(f"expected at least {_MIN_SAMPLES} samples, got {len(target)}; give it more audio")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(clips, generator=generator).to(target.device)
    samples = torch.unflatten(torch.cat([context, target.unsqueeze(0)]), 1, (clips, -1))[:, order].flatten(1)
    train, validation, test = torch.split(samples, _sizes(samples.shape[1]), dim=1)
    with torch.autocast(target.device.type, enabled=False):
        model = _train(train, validation, codebook_size, generator)
    return (_entropy(test[-1]) - _cross_entropy(model, test)) / math.log(2)


def _sizes(count: int) -> list[int]:
    train, validation = int(_TRAIN * count), int(_VALIDATION * count)
    return [train, validation, count - train - validation]


def _train(train: Tensor, validation: Tensor, size: int, generator: torch.Generator) -> _Predictor:
    """Fit a model, and return it as it was when it judged the validation samples best."""
    frequencies = train[-1].bincount(minlength=size).float() + 0.5  # Krichevsky and Trofimov's: no code is impossible
    model = _Predictor(len(train) - 1, (frequencies / frequencies.sum()).cpu(), generator).to(train.device)

    def loss() -> Tensor:
        chosen = torch.randint(train.shape[1], (_BATCH,), generator=generator).to(train.device)
        batch = train[:, chosen]
        return F.cross_entropy(model(batch[:-1]), batch[-1])

    fit_until_worse(model, loss, lambda: _cross_entropy(model, validation), _LEARNING_RATE)
    return model


@torch.no_grad()
def _cross_entropy(model: _Predictor, samples: Tensor) -> float:
    """Return nats per sample."""
    total = 0.0
    for part in torch.split(samples, 8 * _BATCH, dim=1):
        total += float(F.cross_entropy(model(part[:-1]), part[-1], reduction="sum").double())
    return total / samples.shape[1]


def _entropy(codes: Tensor) -> float:
    """Return nats, with Miller and Madow's correction."""
    counts = codes.bincount()
    shares = counts[counts > 0].double() / len(codes)
    return float(-(shares * shares.log()).sum()) + (len(shares) - 1) / (2 * len(codes))
