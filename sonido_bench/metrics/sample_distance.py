"""How far a set of samples is from a set of data, without a model of either: precision and sliced Wasserstein."""

import torch
from torch import Tensor

__all__ = ["nearest_neighbour_precision", "sliced_wasserstein"]

_CHUNK = 1024  # rows of distances held at a time


def nearest_neighbour_precision(real: Tensor, samples: Tensor, k: int = 3) -> float:
    """Return the share of samples that lie among the data (Kynkaanniemi et al. 2019, "improved precision").

    A sample does if for at least one real point it is no farther away than that point's ``k``-th nearest real one.

    Args:
        real: ``(points, dim)``.
        samples: ``(samples, dim)``.
        k: Neighbour that sets a point's radius; the point itself does not count.

    Returns:
        In [0, 1]. It falls with dimension and rises with ``k``; compare under equal numbers of points.

    Raises:
        ValueError: If the shapes do not fit, a value is not finite, or there are not more than ``k`` points.
    """
    _check(real, samples)
    if not 1 <= k < len(real):
        raise ValueError(f"expected more than k = {k} real points and k at least 1, got {len(real)} points")
    points, queries = real.detach().double(), samples.detach().double()
    radii = []
    for start in range(0, len(points), _CHUNK):
        distances = _distances(points[start : start + _CHUNK], points)
        rows = torch.arange(len(distances), device=distances.device)
        distances[rows, start + rows] = torch.inf
        radii.append(distances.kthvalue(k, dim=1).values)
    radius = torch.cat(radii)
    inside = [(_distances(part, points) <= radius).any(dim=1) for part in torch.split(queries, _CHUNK)]
    return float(torch.cat(inside).double().mean())


def sliced_wasserstein(
    first: Tensor, second: Tensor, projections: int = 128, generator: torch.Generator | None = None
) -> float:
    """Return the sliced 2-Wasserstein distance: root mean square over random directions of the distance along each.

    Args:
        first: ``(points, dim)``.
        second: ``(points, dim)``; the numbers of points may differ.
        projections: Directions, uniform on the sphere.
        generator: Of the directions; the same state makes distances comparable.

    Returns:
        At least 0, in units of the points.

    Raises:
        ValueError: If the shapes do not fit, a value is not finite, or there are no directions.
    """
    _check(first, second)
    if projections < 1:
        raise ValueError(f"expected at least 1 projection, got {projections}")
    source = first.device if generator is None else generator.device
    directions = torch.randn(first.shape[1], projections, generator=generator, device=source, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(first.device)
    along = [(points.detach().double() @ directions).sort(dim=0).values for points in (first, second)]
    widths, left, right = _common_quantiles(len(first), len(second), first.device)
    squared = (along[0][left] - along[1][right]).square()
    return float((widths @ squared).mean().sqrt())


def _common_quantiles(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Cut [0, 1] where either empirical quantile function jumps; return widths and the points of both per piece."""
    # in units of 1 / (n m), exact integers
    cuts = torch.unique(torch.cat([torch.arange(n + 1, device=device) * m, torch.arange(m + 1, device=device) * n]))
    starts = cuts[:-1]
    return cuts.diff().double() / (n * m), starts // m, starts // n


def _distances(rows: Tensor, columns: Tensor) -> Tensor:
    # the expansion by matrix products loses digits of small distances, on which precision rests
    return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")


def _check(first: Tensor, second: Tensor) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not len(first) or not len(second):
        raise ValueError(
            f"expected two sets (points, dim) of one width, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if not bool(torch.isfinite(first).all()) or not bool(torch.isfinite(second).all()):
        raise ValueError("points are not finite")
