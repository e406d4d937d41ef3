"""How stems are given out: which, for what, at which rate; and their downmix."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from sonido_bench.errors import ConfigError

__all__ = ["StemFormat", "StemTarget", "downmix"]

StemTarget = Literal["stems", "mix"]
"""``stems``: mixture to stems (separation); ``mix``: stems to mixture (mixing)."""


@dataclass(frozen=True)
class StemFormat:
    """How audio is given out.

    Attributes:
        names: Of the stems, in order.
        target: What is learned.
        sample_rate: In Hz; files of another rate are resampled.
        channels: Mono files are repeated, or others averaged for 1.
    """

    names: tuple[str, ...]
    target: StemTarget = "stems"
    sample_rate: int = 44100
    channels: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be given out."""
        if self.target not in get_args(StemTarget):
            raise ConfigError(f"target must be one of {', '.join(get_args(StemTarget))}, got {self.target!r}")
        if not self.names or len(set(self.names)) < len(self.names):
            raise ConfigError(f"expected one or more stems with names of their own, got {list(self.names)}")
        if self.sample_rate < 1 or self.channels < 1:
            raise ConfigError(
                f"sample_rate and channels must be at least 1, got {self.sample_rate} and {self.channels}"
            )


def downmix(stems: Tensor) -> Tensor:
    """Add stems and average their channels: ``(..., stems, channels, samples)`` to ``(..., 1, samples)``."""
    return stems.sum(dim=-3).mean(dim=-2, keepdim=True)
