import pytest
import torch
from scipy.stats import wasserstein_distance

from sonido_bench.metrics import sample_distance
from sonido_bench.metrics.sample_distance import nearest_neighbour_precision, sliced_wasserstein


def points(count=60, dim=3, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_precision_is_its_definition(monkeypatch):
    monkeypatch.setattr(sample_distance, "_CHUNK", 7)
    real, samples = points(), 1.5 * points(40, seed=1)
    between, across = torch.cdist(real.double(), real.double()), torch.cdist(samples.double(), real.double())
    radii = between.sort(dim=1).values[:, 3]  # the first is the point itself
    inside = [any(across[i, j] <= radii[j] for j in range(60)) for i in range(40)]
    assert 0.2 < sum(inside) / 40 < 1
    assert nearest_neighbour_precision(real, samples, k=3) == pytest.approx(sum(inside) / 40)


def test_precision_of_the_data_is_1_and_of_far_points_0():
    assert nearest_neighbour_precision(points(), points(), k=1) == 1
    assert nearest_neighbour_precision(points(), points() + 100) == 0


def test_in_one_dimension_the_distance_is_that_of_sorted_values():
    first, second = points(50, 1), 2 * points(50, 1, seed=1)
    expected = (first.sort(dim=0).values - second.sort(dim=0).values).double().square().mean().sqrt().item()
    assert sliced_wasserstein(first, second) == pytest.approx(expected)


def test_unequal_numbers_of_points_are_matched_exactly():
    shifted = points(20, 1).abs() + 10  # all above the others: the mean distance is the difference of means
    few = points(13, 1, seed=1) * 0
    expected = shifted.double().square().mean().sqrt().item()
    assert sliced_wasserstein(shifted, few) == pytest.approx(expected)
    assert sliced_wasserstein(points(30), points(30).repeat(3, 1)) == pytest.approx(0, abs=1e-12)
    widths, left, right = sample_distance._common_quantiles(20, 13, torch.device("cpu"))
    matched = (widths * (shifted.sort(0).values[left, 0] - points(13, 1).sort(0).values[right, 0]).abs()).sum()
    expected = wasserstein_distance(shifted[:, 0].numpy(), points(13, 1)[:, 0].numpy())
    assert matched.item() == pytest.approx(expected, rel=1e-6)


def test_a_shift_moves_every_slice_by_its_projection():
    generator = torch.Generator().manual_seed(0)
    moved = points() + torch.tensor([3.0, 0.0, 0.0])
    # the mean square of a projection onto a random direction is |shift|^2 / dim
    assert sliced_wasserstein(points(), moved, 4000, generator) == pytest.approx(3**0.5, rel=0.05)
    same = [sliced_wasserstein(points(), moved, 8, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert same[0] == same[1]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one width"):
        sliced_wasserstein(points(), points(dim=2))
    with pytest.raises(ValueError, match="not finite"):
        nearest_neighbour_precision(points(), points() * torch.nan)
    with pytest.raises(ValueError, match="more than k = 3 real points"):
        nearest_neighbour_precision(points(3), points())
    with pytest.raises(ValueError, match="at least 1 projection"):
        sliced_wasserstein(points(), points(), 0)
