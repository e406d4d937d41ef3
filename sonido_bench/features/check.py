"""Whether an extractor keeps the contract: what ``sonido-bench check-extractor`` tells its author."""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sonido_bench.features.extractor import Extractor

__all__ = ["Finding", "check_extractor"]

_TOLERANCE = 1e-3  # of the largest feature: what another order of summation may change
_CLICK_SECONDS = 0.02
_LATEST_SECONDS = 0.1  # a click may show this late or early, or two hops


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: Of the check.
        passed: Whether the contract is kept.
        detail: What was seen, or what is wrong.
    """

    name: str
    passed: bool
    detail: str


class _Broken(Exception):
    """The contract is broken; the message says how."""


def check_extractor(extractor: Extractor) -> list[Finding]:
    """Run all checks on synthetic audio: a dozen passes over a few seconds, and three over one window.

    Args:
        extractor: As built; is left as it was.

    Returns:
        One finding per check; an extractor that raises fails the check.
    """
    return [_finding(name, check, extractor) for name, check in _CHECKS.items()]


def _finding(name: str, check: Callable[[Extractor], str], extractor: Extractor) -> Finding:
    try:
        return Finding(name, True, check(extractor))
    except _Broken as broken:
        return Finding(name, False, str(broken))
    except Exception as error:  # the class under test is a stranger's and may raise anything
        return Finding(name, False, f"raised {type(error).__name__}: {error}")


def _card(extractor: Extractor) -> str:
    empty = [field for field, value in dataclasses.asdict(extractor.card).items() if not value.strip()]
    if empty:
        raise _Broken(f"fields of the card are empty: {', '.join(empty)}")
    return f"{extractor.card.name}, code {extractor.card.code_licence}, weights {extractor.card.weights_licence}"


def _fingerprint(extractor: Extractor) -> str:
    first, second = extractor.fingerprint(), extractor.fingerprint()
    if first != second:
        raise _Broken("two fingerprints of the same extractor differ: nothing could be found in a cache again")
    return first[:16]


def _spec(extractor: Extractor) -> str:
    spec = extractor.spec
    for seconds in (0.1, 1.0, 2.347):
        audio = _music(extractor, seconds)
        expected = {name: (1, spec.frames(name, audio.shape[1]), s.dim) for name, s in spec.streams.items()}
        found = {name: tuple(stream.shape) for name, stream in extractor.extract(audio).items()}
        if found != expected:
            raise _Broken(f"{seconds:g} s: spec promises {expected}, extract gave {found}")
    return ", ".join(f"{name}: {s.dim} wide at {spec.frame_rate(name):.2f} Hz" for name, s in spec.streams.items())


def _finite(extractor: Extractor) -> str:
    music = _music(extractor, 2.0)
    for kind, audio in {"music": music, "silence": torch.zeros_like(music)}.items():
        for name, stream in extractor.extract(audio).items():
            if stream.dtype != torch.float32 or not torch.isfinite(stream).all():
                raise _Broken(
                    f"stream {name} of {kind}: expected finite float32, found {stream.dtype}, NaN or infinity"
                )
    return "finite float32 for music and silence"


def _frozen(extractor: Extractor) -> str:
    trained = [name for name, parameter in extractor.named_parameters() if parameter.requires_grad]
    if trained:
        raise _Broken(f"parameters want gradients: {', '.join(trained[:3])}")
    awake = [name or "the extractor" for name, module in extractor.train().named_modules() if module.training]
    if awake:
        extractor.eval()
        raise _Broken(f"train() puts modules into training mode: {', '.join(awake[:3])}; leave train() as it is")
    music = _music(extractor, 1.0)
    first, second = extractor.extract(music), extractor.extract(music)
    if any(not torch.equal(first[name], second[name]) for name in first):
        raise _Broken("two passes over the same audio differ: something draws random numbers or keeps a state")
    return f"{sum(p.numel() for p in extractor.parameters()):,} parameters without gradients, two passes equal"


def _batch(extractor: Extractor) -> str:
    levels = torch.tensor([[1.0], [0.1], [0.01]], device=extractor.device)  # far apart: shared statistics would show
    batch = _music(extractor, 2.0) * levels
    together = extractor.extract(batch)
    alone = [extractor.extract(item[None]) for item in batch]
    worst = max(_deviation(stream, torch.cat([one[name] for one in alone])) for name, stream in together.items())
    if worst > _TOLERANCE:
        raise _Broken(f"a batch differs from its items by {worst:.1e} of the largest feature: items see each other")
    return f"a batch equals its items to {worst:.0e} of the largest feature"


def _windows(extractor: Extractor) -> str:
    """Compare windows with the whole, in audio as long as the extractor's own window."""
    if extractor.window_seconds is None:
        return "audio of any length is run whole"
    shorter = copy.copy(extractor)  # shares the weights
    shorter.window_seconds = (extractor.window_seconds + extractor.overlap_seconds) / 2
    music = _music(extractor, extractor.window_seconds)
    whole, windowed = extractor.extract(music), shorter.extract(music)
    details = [_compare_windows(name, windowed[name][0], whole[name][0]) for name in whole]
    return "; ".join(details)


def _compare_windows(name: str, windowed: Tensor, whole: Tensor) -> str:
    if windowed.shape != whole.shape:
        raise _Broken(f"stream {name}: windows give {tuple(windowed.shape)}, the whole {tuple(whole.shape)}")
    by_frame = (windowed - whole).abs().amax(dim=1) / whole.abs().max().clamp_min(1e-12)
    worst, typical = by_frame.max().item(), by_frame.median().item()
    if worst <= _TOLERANCE:
        return f"{name}: windows equal the whole to {worst:.0e}"
    if typical <= _TOLERANCE:
        raise _Broken(f"stream {name}: frames at the seams of windows are off by {worst:.1e}: raise overlap_seconds")
    in_step = (windowed - whole).abs().mean()
    if len(whole) > 2 and any((windowed[1:-1] - other).abs().mean() < in_step for other in (whole[:-2], whole[2:])):
        raise _Broken(f"stream {name}: windowed frames fit those of the whole best when shifted in time")
    return f"{name}: each frame sees the whole window; windows differ from the whole by {typical:.0%} of the largest"


def _timing(extractor: Extractor) -> str:
    """Put a click at several places and see where the features change."""
    rate = extractor.spec.sample_rate
    seconds = min(4.0, extractor.window_seconds or 4.0)
    clicks = torch.linspace(0.3, 0.72, 7) * seconds
    bed = 0.01 * _noise(extractor, round(seconds * rate))
    clicked = bed.repeat(len(clicks), 1)
    half = round(_CLICK_SECONDS / 2 * rate)
    for row, click in zip(clicked, clicks.tolist(), strict=True):
        middle = round(click * rate)
        row[middle - half : middle + half] = 0.9 * _noise(extractor, 2 * half)[0]
    quiet, loud = extractor.extract(bed), extractor.extract(clicked)
    errors = {name: _click_error(extractor, name, loud[name] - quiet[name], clicks) for name in quiet}
    for name, error in errors.items():
        allowed = max(2 / extractor.spec.frame_rate(name), _LATEST_SECONDS)
        if abs(error) > allowed:
            raise _Broken(
                f"stream {name}: a click shows {error:+.3f} s off, allowed are {allowed:.3f} s; "
                "mend first_centre or hop_length in spec"
            )
    return "a click shows at " + ", ".join(f"{error:+.3f} s ({name})" for name, error in errors.items())


def _click_error(extractor: Extractor, name: str, change: Tensor, clicks: Tensor) -> float:
    """Mean time, in seconds, from the clicks to the middle of the frames that changed most."""
    strength = change.norm(dim=2).cpu()
    if (strength.amax(dim=1) == 0).any():
        raise _Broken(f"stream {name}: a click changes nothing")
    strength = strength * (strength >= strength.amax(dim=1, keepdim=True) / 2)
    centres = extractor.spec.grid(name).centres(strength.shape[1]).float()
    errors = (strength @ centres) / strength.sum(dim=1) - clicks
    return float(errors.mean())


def _music(extractor: Extractor, seconds: float) -> Tensor:
    """Tones of random pitch and level, changing five times a second, in a little noise, ``(1, samples)``."""
    rate = extractor.spec.sample_rate
    samples = round(seconds * rate)
    generator = torch.Generator().manual_seed(0)
    notes = -(-samples // (rate // 5))
    pitches = 110 * 2 ** (torch.randint(0, 48, (notes,), generator=generator) / 12)
    levels = torch.rand(notes, generator=generator)
    phase = torch.cumsum(pitches.repeat_interleave(rate // 5)[:samples].double() / rate, dim=0)
    tones = levels.repeat_interleave(rate // 5)[:samples] * torch.sin(2 * torch.pi * phase).float()
    return 0.5 * tones[None].to(extractor.device) + 0.01 * _noise(extractor, samples)


def _noise(extractor: Extractor, samples: int) -> Tensor:
    """White noise in [-1, 1], ``(1, samples)``."""
    noise = torch.rand(1, samples, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return noise.to(extractor.device)


def _deviation(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


_CHECKS: dict[str, Callable[[Extractor], str]] = {
    "card is complete": _card,
    "fingerprint is stable": _fingerprint,
    "features match spec": _spec,
    "features are finite": _finite,
    "weights are frozen": _frozen,
    "a batch equals its items": _batch,
    "windows equal the whole": _windows,
    "frames lie where spec says": _timing,
}
