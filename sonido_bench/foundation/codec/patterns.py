"""Interleaving patterns: at which step a language model reads and predicts which code.

A frame has a code of each of ``K`` codebooks. A pattern puts code ``(t, k)``, of frame ``t`` and codebook ``k``, on a
step; codes of one step are predicted at once, independently of each other given all earlier steps. With ``T`` frames:

- ``parallel``: step ``t``; ``T`` steps;
- ``delay``: step ``t + d[k]``, by default ``d = 0, 1, ..., K - 1``; ``T + max(d)`` steps;
- ``partial_delay``: the same with ``d = 0, 1, 1, ...``; ``T + 1`` steps;
- ``flatten``: step ``t * K + k``; ``K * T`` steps, the exact chain rule;
- ``partial_flatten``: the first codebook, then all others at once; ``2 * T`` steps;
- ``coarse_first``: the whole first codebook, then all others, by default in parallel; ``2 * T + max(d)`` steps.

Copet et al. (2023), Simple and Controllable Music Generation, section 2.2. Steps are counted without the step of
special tokens that a language model reads before the first one.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sonido_bench.errors import ConfigError

__all__ = ["CodePattern", "Interleaved", "PatternName"]

PatternName = Literal["parallel", "delay", "partial_delay", "flatten", "partial_flatten", "coarse_first"]


class Interleaved(NamedTuple):
    """Codes on their steps.

    Attributes:
        tokens: ``(batch, steps, codebooks)`` int64; the special token where a step has no code of a codebook.
        valid: ``(steps, codebooks)``, true where it has one.
    """

    tokens: Tensor
    valid: Tensor


@dataclass(frozen=True)
class CodePattern:
    """Where codes go.

    Attributes:
        name: Of the pattern.
        codebooks: Codes of a frame.
        delays: Of each codebook, in steps, for ``delay`` and ``coarse_first`` (where they count from the end of the
            first codebook, whose own is 0). Stereo codebooks in pairs have ``0, 0, 1, 1, ...``. ``None``: the default.
    """

    name: PatternName
    codebooks: int
    delays: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names, and delays that do not fit or begin with a step without codes."""
        if self.name not in get_args(PatternName):
            raise ConfigError(f"unknown pattern {self.name!r}; use one of: {', '.join(get_args(PatternName))}")
        if self.codebooks < 1:
            raise ConfigError(f"a pattern wants one codebook or more, got {self.codebooks}")
        if self.delays is None:
            return
        if self.name not in ("delay", "coarse_first"):
            raise ConfigError(f"pattern {self.name} has no delays to choose; leave them out, or use delay")
        delayed = self.delays[1:] if self.name == "coarse_first" else self.delays
        if len(self.delays) != self.codebooks or min(self.delays) < 0 or self.delays[0] or min(delayed, default=0):
            others = ", and 0 among the others" if self.name == "coarse_first" else ""
            raise ConfigError(
                f"pattern {self.name} wants a delay of 0 steps or more for each of {self.codebooks} codebooks, that of "
                f"the first being 0{others}; got {self.delays}"
            )

    def steps(self, frames: int) -> int:
        """Return the number of steps for a number of frames; the step before the first one is not counted."""
        return int(self.places(frames).max()) + 1 if frames else 0

    def places(self, frames: int) -> Tensor:
        """Return the step of every code, ``(frames, codebooks)`` int64 on the CPU.

        Within a codebook, steps ascend with the frames.

        Raises:
            ValueError: If the number of frames is negative.
        """
        if frames < 0:
            raise ValueError(f"expected 0 frames or more, got {frames}")
        frame, codebook = torch.arange(frames).unsqueeze(1), torch.arange(self.codebooks)
        if self.name == "flatten":
            return frame * self.codebooks + codebook
        if self.name == "partial_flatten":
            return frame * min(self.codebooks, 2) + codebook.clamp(max=1)
        behind_first = frames * (codebook > 0) if self.name == "coarse_first" else 0
        return frame + self._delays() + behind_first

    def build(self, codes: Tensor, special: int) -> Interleaved:
        """Put codes on their steps.

        Args:
            codes: ``(batch, frames, codebooks)``, of an integer type.
            special: The token for steps without a code.

        Returns:
            Tokens and where they are codes; on the codes' device.

        Raises:
            ValueError: If the codes have another shape or type.
        """
        self._check(codes, "codes (batch, frames, codebooks)")
        steps = self.steps(codes.shape[1])
        tokens = torch.full((len(codes), steps, self.codebooks), special, dtype=torch.long, device=codes.device)
        valid = torch.zeros(steps, self.codebooks, dtype=torch.bool, device=codes.device)
        index = self._index(codes.shape[1], codes.device)
        tokens[:, *index] = codes.long()
        valid[index] = True
        return Interleaved(tokens, valid)

    def revert(self, tokens: Tensor, frames: int) -> Tensor:
        """Take codes from their steps: the inverse of ``build``.

        Args:
            tokens: ``(batch, steps, codebooks)`` or with more axes behind, as logits have.
            frames: That the steps hold.

        Returns:
            ``(batch, frames, codebooks)``, and the further axes.

        Raises:
            ValueError: If there are not exactly the steps that so many frames take.
        """
        wanted = self.steps(frames)
        if tokens.ndim < 3 or tokens.shape[1:3] != (wanted, self.codebooks):
            raise ValueError(
                f"expected tokens (batch, {wanted} steps, {self.codebooks}) for {frames} frames of {self.name}, "
                f"got {tuple(tokens.shape)}"
            )
        return tokens[:, *self._index(frames, tokens.device)]

    def _index(self, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return step and codebook of every code, each ``(frames, codebooks)`` or broadcast to it."""
        return self.places(frames).to(device), torch.arange(self.codebooks, device=device)

    def _delays(self) -> Tensor:
        """Return the delay of each codebook."""
        if self.delays is not None:
            return torch.tensor(self.delays)
        codebook = torch.arange(self.codebooks)
        longest = {"delay": self.codebooks, "partial_delay": 1}.get(self.name, 0)
        return codebook.clamp(max=longest)

    def _check(self, codes: Tensor, expected: str) -> None:
        if codes.ndim != 3 or codes.shape[2] != self.codebooks or codes.is_floating_point() or codes.is_complex():
            raise ValueError(
                f"expected integer {expected} of {self.codebooks} codebooks, got {codes.dtype} {tuple(codes.shape)}"
            )
