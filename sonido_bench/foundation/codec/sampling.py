"""Sampling of codes from a language model."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.language_model import LanguageModel
from sonido_bench.foundation.transformer.sampling import SamplingConfig, sample_logits
from sonido_bench.foundation.transformer.stepping import Stepper, read_prompt

__all__ = ["Sampled", "sample", "sampling_windows"]


class Sampled(NamedTuple):
    """What was drawn.

    Attributes:
        codes: Prompt and new frames, ``(batch, frames, codebooks)`` int64.
        steps: How often the transformer was called, one call after another: within the context and without a prompt,
            once for every step of the pattern that has a code.
    """

    codes: Tensor
    steps: int


@torch.no_grad()
def sample(
    model: LanguageModel,
    frames: int,
    prompt: Tensor | None = None,
    condition: Tensor | None = None,
    sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
    generator: torch.Generator | None = None,
    hop_fraction: float = 0.6,
    progress: Callable[[int, int], None] | None = None,
) -> Sampled:
    """Draw codes, from the start or behind a prompt.

    What is longer than the model's context is drawn window by window; each new one begins with the last frames of what
    there is.

    Args:
        model: In evaluation mode.
        frames: Of the result, the prompt's among them.
        prompt: Codes ``(batch, frames, codebooks)``, of any length; ``None``: none, and as many items as the condition
            has, or one.
        condition: As in ``LanguageModel.forward``; ``None``: the learned "none".
        sampling: How codes are drawn; MusicGen has ``top_k`` 250 and ``guidance`` 3. A ``guidance`` other than 1 wants
            a condition and doubles the batch: the logits are ``none + guidance * (given - none)``.
        generator: Of the draws.
        hop_fraction: Share of the context that each window but the first draws anew, in (0, 1]; MusicGen's is 18 / 30.
        progress: Called after every window's step with the steps done and the steps in all.

    Returns:
        Codes, and the steps that were taken.

    Raises:
        ConfigError: If guidance meets no condition, or ``hop_fraction`` is out of range.
        ValueError: If there are fewer frames than in the prompt, or shapes or codes do not fit the model.
    """
    if sampling.guidance != 1 and condition is None:
        raise ConfigError("guidance wants a condition: give an audio or text embedding, or guidance 1")
    if not 0 < hop_fraction <= 1:
        raise ConfigError(f"expected hop_fraction in (0, 1], got {hop_fraction:g}")
    codes = _start(model, prompt, condition)
    if frames < max(1, codes.shape[1]):
        raise ValueError(f"expected at least the {codes.shape[1]} frames of the prompt, and one, got {frames}")
    prefix = model.prefix(condition, len(codes))
    if sampling.guidance != 1:  # the second half of the batch is without condition
        prefix = torch.cat([prefix, model.prefix(None, len(codes))])
    spans = sampling_windows(codes.shape[1], frames, model.config.context, hop_fraction)
    total = sum(len(_drawn_steps(model, known - start, end - start)) for start, known, end in spans)
    done = 0

    def step_done() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for start, _, end in spans:
        window = _window(model, codes[:, start:], end - start, prefix, sampling, generator, step_done)
        codes = torch.cat([codes[:, :start], window], dim=1)
    return Sampled(codes, done)


def _start(model: LanguageModel, prompt: Tensor | None, condition: Tensor | None) -> Tensor:
    """Return the codes that there are at first, int64 on the model's device, after a check."""
    device = model.norm.weight.device
    if prompt is None:
        batch = 1 if condition is None else len(condition)
        return torch.zeros(batch, 0, model.config.codebooks, dtype=torch.long, device=device)
    context, length = model.config.context, prompt.shape[1] if prompt.ndim > 1 else 0
    for first in range(0, max(1, length), context):
        model.check_codes(prompt[:, first : first + context] if length else prompt)
    return prompt.long().to(device)


def sampling_windows(known: int, frames: int, context: int, hop_fraction: float) -> list[tuple[int, int, int]]:
    """Return first frame, number of frames known before it is drawn, and end of every window.

    Windows follow from what is known alone: sampling up to the end of one, and on from there, gives the same ones.

    Args:
        known: Frames that there are.
        frames: That are wanted.
        context: Of the model, in frames.
        hop_fraction: As in ``sample``.
    """
    overlap = context - max(1, round(hop_fraction * context))
    spans = []
    while known < frames:
        start = max(0, known - overlap)
        end = min(frames, start + context)
        spans.append((start, known, end))
        known = end
    return spans


def _drawn_steps(model: LanguageModel, known: int, frames: int) -> list[int]:
    """Return the steps that have a code of a frame that is not known."""
    return sorted({int(step) for step in model.pattern.places(frames)[known:].flatten().tolist()})


def _window(
    model: LanguageModel,
    known: Tensor,
    frames: int,
    prefix: Tensor,
    sampling: SamplingConfig,
    generator: torch.Generator | None,
    step_done: Callable[[], None],
) -> Tensor:
    """Continue known codes within the context; steps without anything to draw are read along with the next."""
    unknown = known.new_full((len(known), frames - known.shape[1], known.shape[2]), model.special)
    tokens = model.shifted(torch.cat([known, unknown], dim=1))  # place 0 is the step of special tokens
    places = model.pattern.places(frames)[known.shape[1] :].to(known.device)
    copies, read = len(prefix) // len(known), 0
    stepper: Stepper | None = None
    for step in _drawn_steps(model, known.shape[1], frames):
        unread = model.embed(tokens[:, read : step + 1].repeat(copies, 1, 1), read)
        if stepper is None:
            begin = torch.cat([prefix, unread], dim=1)
            last, stepper = read_prompt(model.transformer, begin, prefix.shape[1] + tokens.shape[1])
        else:
            for embedded in unread.unbind(1):
                last = stepper(embedded)
        logits = model.next_logits(last)
        if sampling.guidance != 1:
            given, none = logits.chunk(2)
            logits = none + sampling.guidance * (given - none)
        drawn = sample_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p, generator)
        wanted = (places == step).any(dim=0)  # not what is known, and no step without a code
        tokens[:, step + 1] = torch.where(wanted, drawn, tokens[:, step + 1])
        read = step + 1
        step_done()
    return model.pattern.revert(tokens[:, 1:], frames)
