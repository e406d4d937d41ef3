"""The one difference between a baseline and its boosted twin."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from sonido_bench.nn.injection import FeatureInjection

__all__ = ["Injection", "OptionalInjection"]

Injection = Literal["add", "concat"]


class OptionalInjection(nn.Module):
    """Injects features, or does nothing in the baseline.

    Making the injection leaves the random generator as it was: a network with features and one without start from the
    same weights in every other part, and see the same dropout and token-out masks.

    Args:
        feature_dims: Width of each feature stream; ``None`` is the baseline.
        width: Of the hidden frames that features are injected into.
        mode: ``add`` is zero-initialised: the network starts as its baseline, bit for bit.
        gain: How loud the features are (see ``FeatureInjection``).
    """

    def __init__(
        self, feature_dims: Mapping[str, int] | None, width: int, mode: Injection = "add", gain: float = 1.0
    ) -> None:
        super().__init__()
        self.injection: FeatureInjection | None = None
        if feature_dims is not None:
            self.injection = FeatureInjection(feature_dims, width, mode=mode, gain=gain)

    def forward(self, hidden: Tensor, features: dict[str, Tensor] | None) -> Tensor:
        """Inject into ``(batch, frames, width)``.

        Args:
            hidden: Hidden frames of the network.
            features: Every stream on the same frames, ``(batch, frames, dim)``; ``None`` in the baseline.

        Raises:
            ValueError: If features are given to a network without, or missing in one with.
        """
        if (features is None) != (self.injection is None):
            raise ValueError(f"this network {'takes no' if self.injection is None else 'needs'} features")
        if self.injection is None or features is None:
            return hidden
        injected: Tensor = self.injection(hidden, features)
        return injected
