"""Features of a frozen model brought into a network."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["FeatureInjection"]


class FeatureInjection(nn.Module):
    """Normalises, projects and adds (or concatenates) features to a network's hidden frames.

    Each stream passes through its own LayerNorm, is scaled to the length ``gain`` and projected, and the results are
    summed, which equals one projection of all streams side by side. With ``weighted_sum`` the streams are first
    averaged with learned softmax weights, as is usual over the layers of one model, and share LayerNorm and
    projection.

    At step 0 the network behaves as if no features were there, so that both arms of a pair start alike:

    - ``add``: the projections start at zero, so the output equals ``hidden`` bit for bit;
    - ``concat``: a linear layer over [hidden, projected] starts as [identity, zero]; the output equals ``hidden`` up
      to the rounding of one matrix product (exactly in full float32).

    Building it leaves the global random state as it was, so that what is built next has the weights that it would
    have without features.

    Args:
        dims: Width of each stream.
        width: Width of ``hidden``.
        mode: How the projected features join ``hidden``.
        weighted_sum: Average the streams before one projection; they must be equally wide.
        gain: Length of a normalised frame. Adam moves every weight by the same amount, so that the gain decides how
            fast features are learned beside the network's own input; to be chosen on validation (docs/baselines.md).

    Raises:
        ValueError: If there is no stream, ``weighted_sum`` meets different widths, or ``gain`` is not positive.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        width: int,
        mode: Literal["add", "concat"] = "add",
        weighted_sum: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if not dims:
            raise ValueError("expected at least one stream of features, got none")
        if weighted_sum and len(set(dims.values())) > 1:
            raise ValueError(f"a weighted sum wants streams of equal width, got {dict(dims)}")
        if mode not in ("add", "concat"):
            raise ValueError(f"expected mode add or concat, got {mode}")
        if not gain > 0:
            raise ValueError(f"expected a positive gain, got {gain}")
        self.dims = dict(dims)
        self.gain = gain
        projected = {"weighted_sum": next(iter(dims.values()))} if weighted_sum else self.dims
        with torch.random.fork_rng(devices=[]):
            self.layer_weights = nn.Parameter(torch.zeros(len(dims))) if weighted_sum else None
            self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name, dim in projected.items()})
            # No bias: that of LayerNorm is enough.
            self.projections = nn.ModuleDict(
                {name: nn.Linear(dim, width, bias=False) for name, dim in projected.items()}
            )
            self.join = nn.Linear(2 * width, width, bias=False) if mode == "concat" else None
        self._start_as_baseline(width)

    @torch.no_grad()
    def _start_as_baseline(self, width: int) -> None:
        if self.join is None:
            for weight in self.projections.parameters():
                nn.init.zeros_(weight)
        else:
            self.join.weight.copy_(torch.cat([torch.eye(width), torch.zeros(width, width)], dim=1))

    def forward(self, hidden: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Bring features into hidden frames.

        Args:
            hidden: ``(batch, frames, width)``.
            features: Each stream ``(batch, frames, dim)``, already at the frames of ``hidden``.

        Returns:
            ``(batch, frames, width)``.

        Raises:
            ValueError: If the streams are not those of ``dims``, or have other frames than ``hidden``.
        """
        if features.keys() != self.dims.keys():
            raise ValueError(f"expected the streams {sorted(self.dims)}, got {sorted(features)}")
        for name, stream in features.items():
            if stream.shape[:2] != hidden.shape[:2]:
                raise ValueError(
                    f"stream {name} has (batch, frames) {tuple(stream.shape[:2])}, hidden has "
                    f"{tuple(hidden.shape[:2])}; align it first"
                )
        projected = self._project(features)
        if self.join is None:
            return hidden + projected
        joined: Tensor = self.join(torch.cat([hidden, projected], dim=-1))
        return joined

    def _project(self, features: Mapping[str, Tensor]) -> Tensor:
        if self.layer_weights is not None:
            layers = torch.stack([features[name] for name in self.dims], dim=-1)
            features = {"weighted_sum": layers @ self.layer_weights.softmax(dim=0)}
        # By length, not by channel: a wide stream would move the sum further a step than a narrow one.
        scaled = {name: norm(features[name]) / features[name].shape[-1] ** 0.5 for name, norm in self.norms.items()}
        projected = [self.projections[name](self.gain * stream) for name, stream in scaled.items()]
        return torch.stack(projected).sum(dim=0)
