import numpy as np
import pytest
from scipy.linalg import sqrtm

from sonido_bench.metrics.frechet import GaussianStatistics, frechet_distance, frechet_distance_of_embeddings


def draw(count=200, dim=5, seed=0, scale=1.0, shift=0.0):
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) + 2 * np.eye(dim)
    return scale * generator.normal(size=(count, dim)) @ mixing + shift


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_formula_with_a_matrix_square_root(seed):
    first, second = draw(seed=seed), draw(seed=seed + 10, scale=1.7, shift=0.5) ** 3 / 10
    a, b = np.cov(first.T), np.cov(second.T)
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance_of_embeddings(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance_of_embeddings(second, first) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_at_no_distance_from_itself():
    embeddings = draw()
    scale = np.trace(np.cov(embeddings.T))
    assert frechet_distance_of_embeddings(embeddings, embeddings) < 1e-12 * scale


def test_shift_and_scale_of_a_gaussian_have_closed_forms():
    embeddings = draw()
    shift = np.arange(5.0)
    assert frechet_distance_of_embeddings(embeddings, embeddings + shift) == pytest.approx(30)
    variance = np.trace(np.cov(embeddings.T))
    scaled = 3 * (embeddings - embeddings.mean(0)) + embeddings.mean(0)
    assert frechet_distance_of_embeddings(embeddings, scaled) == pytest.approx(4 * variance)  # (3 - 1)^2 tr A


def test_one_dimension_is_that_of_the_standard_deviations():
    first, second = draw(dim=1), draw(dim=1, seed=1, scale=2.0, shift=1.0)
    expected = (first.mean() - second.mean()) ** 2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2
    assert frechet_distance_of_embeddings(first, second) == pytest.approx(expected)


def test_directions_without_variance_are_no_trouble():
    embeddings = draw()
    flat = np.concatenate([embeddings, embeddings[:, :2], np.ones((200, 1))], axis=1)  # rank 5 of 8
    assert frechet_distance_of_embeddings(flat, flat) < 1e-6
    moved = flat.copy()
    moved[:, 7] += 2
    assert frechet_distance_of_embeddings(flat, moved) == pytest.approx(4, abs=1e-6)
    assert frechet_distance_of_embeddings(np.ones((20, 3)), np.zeros((20, 3))) == pytest.approx(3)


def test_parts_and_merging_give_the_statistics_of_the_whole():
    embeddings = draw() + 1e6  # a large mean, in which naive sums of squares would drown
    parts = GaussianStatistics(5)
    for part in np.split(embeddings, [1, 50, 50, 120]):
        parts.update(part)
    merged = GaussianStatistics(5).update(embeddings[:70]).merge(GaussianStatistics(5).update(embeddings[70:]))
    for found in (parts, merged, merged.merge(GaussianStatistics(5))):
        assert found.count == 200
        np.testing.assert_allclose(found.mean, embeddings.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(embeddings.T), rtol=1e-6, atol=1e-6)


def test_few_items_are_refused_unless_asked_for():
    few, many = draw(5), draw(200, seed=1)
    with pytest.raises(ValueError, match="more than 5 items for embeddings of that width, got 5"):
        frechet_distance_of_embeddings(many, few)
    assert frechet_distance_of_embeddings(many, few, allow_few_items=True) > 0
    assert frechet_distance_of_embeddings(few, few, allow_few_items=True) < 1e-6
    with pytest.raises(ValueError, match="at least 2 embeddings"):
        frechet_distance_of_embeddings(many, few[:1], allow_few_items=True)


def test_bad_input_is_refused():
    embeddings = draw()
    with pytest.raises(ValueError, match="one width, got 5 and 4"):
        frechet_distance_of_embeddings(embeddings, embeddings[:, :4])
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance_of_embeddings(embeddings, embeddings * np.nan)
    with pytest.raises(ValueError, match=r"embeddings \(items, dim\)"):
        frechet_distance_of_embeddings(embeddings[0], embeddings)
    with pytest.raises(ValueError, match=r"embeddings \(items, 4\)"):
        GaussianStatistics(4).update(embeddings)
    with pytest.raises(ValueError, match="width 4, got 5"):
        GaussianStatistics(4).merge(GaussianStatistics(5))
    statistics = GaussianStatistics(2)
    with pytest.raises(ValueError, match="more than 2 items"):
        frechet_distance(statistics, statistics)
