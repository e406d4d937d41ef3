"""The price of factorisation: what a language model loses by predicting the codes of a step independently."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.foundation.codec.language_model import LanguageModel
from sonido_bench.metrics.fitting import fit_until_worse

__all__ = ["Price", "price_of_factorisation"]

_WIDTH, _BATCH, _LEARNING_RATE = 64, 512, 3e-3
_VALIDATION = 8  # one window in so many says when to stop


class Price(NamedTuple):
    """What a step's codes tell of each other beyond the model's state.

    Attributes:
        bits_per_frame: Of all codebooks together.
        per_codebook: Bits per frame of each, given those before it on its step; 0 for the first.
    """

    bits_per_frame: float
    per_codebook: list[float]


class _Steps(NamedTuple):
    """One codebook's codes with what may be known of them, window by window.

    Attributes:
        states: ``(windows, steps, width)``, normalised.
        context: ``(windows, steps, codebooks before)``: tokens of the same step.
        targets: ``(windows, steps)``.
    """

    states: Tensor
    context: Tensor
    targets: Tensor

    def flat(self) -> "_Steps":
        return _Steps(*(part.flatten(0, 1) for part in self))


class _Refiner(nn.Module):
    """A correction of a head's logits from the state, and from the step's earlier codes if it is informed."""

    def __init__(self, head: Tensor, codebooks: int, generator: torch.Generator, informed: bool) -> None:
        super().__init__()
        size, width = head.shape
        self.head: Tensor
        self.offsets: Tensor
        self.register_buffer("head", head)
        self.register_buffer("offsets", (size + 1) * torch.arange(codebooks))
        self.embedding = nn.Parameter(torch.randn(codebooks * (size + 1), _WIDTH, generator=generator))
        self.state = nn.Parameter(torch.randn(_WIDTH, width, generator=generator) / math.sqrt(width))
        self.hidden = nn.Parameter(torch.randn(_WIDTH, _WIDTH, generator=generator) / math.sqrt(_WIDTH))
        self.out = nn.Parameter(torch.zeros(size, _WIDTH))
        self.informed = informed

    def forward(self, states: Tensor, context: Tensor) -> Tensor:
        hidden = F.linear(states, self.state)
        if self.informed:
            known = F.embedding(context + self.offsets, self.embedding).sum(dim=1) / math.sqrt(len(self.offsets))
            hidden = hidden + known
        return F.linear(states, self.head) + F.linear(F.gelu(F.linear(F.gelu(hidden), self.hidden)), self.out)


def price_of_factorisation(model: LanguageModel, train: Tensor, test: Tensor, frames: int, seed: int = 0) -> Price:
    """Return what the codes of a step tell of each other, given what the model knows before it.

    A step's codes are drawn independently given the steps before; drawn one after another they would cost less by
    their conditional total correlation. For each codebook two networks of two layers correct the model's logits, one
    from its state alone, the other from the state and from the step's codes of earlier codebooks. The difference of
    their cross-entropies on codes that neither has seen is the price. Both start as the model and stop when validation
    rises, so that neither's training favours it. Unlike the difference to a flattened model, this needs no second
    model of equal quality; it misses what the state has lost of the past.

    Args:
        model: In evaluation mode, without condition.
        train: ``(items, frames, codebooks)``, of which one window in eight validates.
        test: The same, other items.
        frames: Of the windows into which items are cut, side by side; a rest is left out.
        seed: Of the networks and their batches.

    Returns:
        The price; on average a little too small for dependent codes, and about 0 for independent ones.

    Raises:
        ValueError: If a window is longer than the items or the model's context, or there are fewer than eight windows
            to train on.
    """
    parts = [_windows(codes, frames) for codes in (train, test)]
    if len(parts[0]) < _VALIDATION:
        raise ValueError(f"expected {_VALIDATION} windows of {frames} frames or more, got {len(parts[0])}")
    known = [_read(model, windows) for windows in parts]
    bits = [0.0] * model.config.codebooks
    for codebook in range(1, model.config.codebooks):
        learning, judging = (_of_codebook(*part, codebook) for part in known)
        if not judging.targets.numel():
            continue  # its steps have no other code
        alone, informed = (_cost(model, learning, judging, codebook, seed, flag) for flag in (False, True))
        bits[codebook] = (alone - informed) * judging.targets.shape[1] / frames / math.log(2)
    return Price(sum(bits), bits)


def _windows(codes: Tensor, frames: int) -> Tensor:
    if not 0 < frames <= codes.shape[1]:
        raise ValueError(f"expected windows of 1 to {codes.shape[1]} frames, got {frames}")
    whole = codes.shape[1] // frames
    return torch.unflatten(codes[:, : whole * frames], 1, (whole, frames)).flatten(0, 1).long()


@torch.no_grad()
def _read(model: LanguageModel, windows: Tensor, batch_size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Return states ``(windows, steps, width)``, tokens ``(windows, steps, codebooks)`` and which of them are codes."""
    states = torch.cat([model.norm(model.states(part)) for part in torch.split(windows, batch_size)])
    built = model.pattern.build(windows, model.special)
    return states, built.tokens, built.valid


def _of_codebook(states: Tensor, tokens: Tensor, valid: Tensor, codebook: int) -> _Steps:
    """Choose the steps that have a code of the codebook and of one before it."""
    chosen = valid[:, codebook] & valid[:, :codebook].any(dim=1)
    return _Steps(states[:, chosen], tokens[:, chosen, :codebook], tokens[:, chosen, codebook])


def _cost(model: LanguageModel, learning: _Steps, judging: _Steps, codebook: int, seed: int, informed: bool) -> float:
    """Return nats per code on the steps to judge."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.unflatten(model.heads.weight.detach(), 0, (model.config.codebooks, -1))[codebook]
    network = _Refiner(head, codebook, generator, informed)
    held = len(learning.targets) // _VALIDATION
    train = _Steps(*(part[held:] for part in learning)).flat()
    validation, test = _Steps(*(part[:held] for part in learning)).flat(), judging.flat()

    def loss() -> Tensor:
        chosen = torch.randint(len(train.targets), (_BATCH,), generator=generator)
        return F.cross_entropy(network(train.states[chosen], train.context[chosen]), train.targets[chosen])

    fit_until_worse(network, loss, lambda: _nats(network, validation), _LEARNING_RATE)
    return _nats(network, test)


@torch.no_grad()
def _nats(network: _Refiner, steps: _Steps) -> float:
    total = 0.0
    for states, context, targets in zip(*(torch.split(part, 8 * _BATCH) for part in steps), strict=True):
        total += float(F.cross_entropy(network(states, context), targets, reduction="sum").double())
    return total / len(steps.targets)
