"""The contract of a frozen model that gives features (DESIGN section 3)."""

from typing import Any, ClassVar

import lightning.pytorch as pl
from torch import Tensor

from sonido_bench.features.spec import ExtractorCard, FeatureSpec

__all__ = ["Extractor"]


class Extractor(pl.LightningModule):
    """A frozen model. A subclass sets ``card`` and ``spec`` and writes ``forward``; see the README for one in 15 lines.

    To be completed: ``extract`` runs ``forward`` without gradients in overlapping windows and stitches them.
    """

    card: ClassVar[ExtractorCard]
    spec: FeatureSpec

    def extract(self, audio: Tensor) -> dict[str, Tensor]:
        """Return the features of audio.

        Args:
            audio: Mono, ``(batch, samples)`` float32 at ``spec.sample_rate`` Hz, any length.

        Returns:
            Stream to ``(batch, frames, dim)`` float32.
        """
        raise NotImplementedError

    @property
    def configuration(self) -> dict[str, Any]:
        """Constructor arguments that change the features: JSON-able, part of every cache key."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """SHA-256 over class, configuration and weights, in hexadecimal."""
        raise NotImplementedError
