"""Weighted scores against scikit-learn on repeated items; the error's distribution against scipy and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from sonido_bench.benchmark.resampling import (
    bootstrap_weights,
    leave_one_out_weights,
    weighted_mean,
    weighted_score,
)
from sonido_bench.benchmark.statistics import estimate, holm

REFERENCES = {"average_precision": average_precision_score, "roc_auc": roc_auc_score}


def labels(rng, items, classes, levels):
    """Targets with both labels in every class, and predictions with ties where levels is small."""
    targets = (rng.random((items, classes)) < 0.4).astype(float)
    targets[0], targets[1] = 0, 1
    return targets, rng.integers(0, levels, (items, classes)) / levels


@pytest.mark.parametrize("measure", REFERENCES)
@given(seed=st.integers(0, 2**31), items=st.integers(2, 40), levels=st.sampled_from([1, 2, 5, 10**6]))
@settings(deadline=None, max_examples=40)
def test_unit_weights_equal_sklearn(measure, seed, items, levels):
    targets, predictions = labels(np.random.default_rng(seed), items, 3, levels)
    score = weighted_score(measure, targets, predictions, np.ones((items, 1)))
    assert score[0] == pytest.approx(REFERENCES[measure](targets, predictions, average="macro"), abs=1e-12)


@pytest.mark.parametrize("measure", REFERENCES)
@given(seed=st.integers(0, 2**31), items=st.integers(4, 30), levels=st.sampled_from([2, 5, 10**6]))
@settings(deadline=None, max_examples=40)
def test_whole_weights_equal_sklearn_on_repeated_items(measure, seed, items, levels):
    rng = np.random.default_rng(seed)
    targets, predictions = labels(rng, items, 2, levels)
    weights = rng.integers(0, 4, (items, 6)).astype(np.float32)
    weights[:2] = 1  # both labels stay
    scores = weighted_score(measure, targets, predictions, weights)
    for score, column in zip(scores, weights.T.astype(int), strict=True):
        again = np.repeat(targets, column, axis=0), np.repeat(predictions, column, axis=0)
        assert score == pytest.approx(REFERENCES[measure](*again, average="macro"), abs=1e-6)


def test_r2_equals_sklearn_on_repeated_items():
    rng = np.random.default_rng(0)
    targets = rng.normal(100, 3, (50, 2))
    predictions = targets + rng.normal(0, 2, (50, 2))
    weights = bootstrap_weights(50, 20, seed=1)
    for score, column in zip(weighted_score("r2", targets, predictions, weights), weights.T.astype(int), strict=True):
        again = np.repeat(targets, column, axis=0), np.repeat(predictions, column, axis=0)
        assert score == pytest.approx(r2_score(*again), abs=1e-9)


@pytest.mark.parametrize("measure", ["average_precision", "roc_auc"])
def test_classes_that_are_not_defined_are_left_out(measure):
    targets = np.array([[0.0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]])
    predictions = np.array([[0.1, 0.9, 0.3], [0.2, 0.8, 0.2], [0.3, 0.7, 0.1], [0.4, 0.6, 0.9]])
    weights = np.array([[1.0, 0], [1, 2], [1, 0], [1, 2]])
    score = weighted_score(measure, targets, predictions, weights)
    assert score[0] == pytest.approx(REFERENCES[measure](targets[:, 1], predictions[:, 1]))
    assert np.isnan(score[1])  # both positives have weight 0


def test_a_class_of_positives_only_has_no_roc_auc():
    targets, predictions = np.ones((3, 1)), np.array([[0.1], [0.2], [0.3]])
    assert np.isnan(weighted_score("roc_auc", targets, predictions, np.ones((3, 1)))[0])
    assert weighted_score("average_precision", targets, predictions, np.ones((3, 1)))[0] == 1


def test_an_output_that_does_not_vary_has_no_r2():
    assert np.isnan(weighted_score("r2", np.full((4, 1), 0.1), np.zeros((4, 1)), np.ones((4, 1)))[0])


def test_a_per_item_metric_has_no_corpus_level_score():
    with pytest.raises(ValueError, match="weighted_mean"):
        weighted_score("mean", np.ones((2, 1)), np.ones((2, 1)), np.ones((2, 1)))


def test_bootstrap_weights():
    weights = bootstrap_weights(30, 400, seed=3)
    assert weights.shape == (30, 401)
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(axis=0) == 30).all()
    assert weights[:, 1:].var() == pytest.approx(29 / 30, rel=0.05)
    assert np.array_equal(weights, bootstrap_weights(30, 400, seed=3))
    assert not np.array_equal(weights, bootstrap_weights(30, 400, seed=4))


def test_weighted_mean_and_leaving_one_out():
    scores = np.array([1.0, 2.0, 6.0])
    assert weighted_mean(scores, leave_one_out_weights(3)).tolist() == [3.0, 4.0, 3.5, 1.5]


def values(per_seed, resampled):
    """Scores of seeds whose resamples all differ from them by the same deviations."""
    return np.hstack([np.array(per_seed)[:, None], np.array(per_seed)[:, None] + np.array(resampled)])


def test_without_spread_between_items_it_is_the_t_test_over_seeds():
    per_seed = [0.1, 0.3, 0.2, 0.4, 0.15]
    result = estimate(values(per_seed, np.zeros(100)), items=500)
    # t with 499 degrees stands for the normal, which makes the tails heavier by a little
    assert result.p == pytest.approx(stats.ttest_1samp(per_seed, 0).pvalue, rel=0.02)
    low, high = stats.t.interval(0.95, 4, np.mean(per_seed), stats.sem(per_seed))
    assert (result.low, result.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_without_spread_between_seeds_it_is_the_t_test_over_items():
    differences = np.random.default_rng(0).normal(0.1, 1, 60)
    weights = bootstrap_weights(60, 20_000, seed=0)
    result = estimate(np.tile(weighted_mean(differences, weights), (3, 1)), items=60)
    assert result.mean == pytest.approx(differences.mean())
    assert result.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.03)


def test_both_spreads_follow_the_distribution_of_behrens_and_fisher():
    rng = np.random.default_rng(1)
    per_seed = np.array([0.5, 1.1, 0.2, 1.4])
    deviations = rng.normal(0, 0.4, 5000)
    result = estimate(values(per_seed, deviations), items=10**7)
    draws = 10**6
    error = stats.sem(per_seed) * rng.standard_t(3, draws) + deviations.std(ddof=1) * rng.normal(size=draws)
    assert result.p == pytest.approx(np.mean(np.abs(error) >= per_seed.mean()), rel=0.02)
    assert result.high - result.mean == pytest.approx(np.quantile(np.abs(error), 0.95), rel=0.01)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_the_interval_leaves_out_zero_exactly_when_p_is_below_the_level(per_seed, seed):
    result = estimate(values(per_seed, np.random.default_rng(seed).normal(0, 0.2, 50)), items=50)
    assert result.low <= result.mean <= result.high
    if abs(result.p - 0.05) > 1e-9:
        assert (result.p < 0.05) == (result.low > 0 or result.high < 0)


def test_no_difference_at_all():
    result = estimate(np.zeros((5, 101)), items=20)
    assert (result.mean, result.low, result.high, result.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(("seeds", "items"), [(1, 50), (3, 1)])
def test_too_little_for_an_interval(seeds, items):
    result = estimate(np.full((seeds, 11), 0.25), items)
    assert (result.mean, result.low, result.high, result.p) == (0.25, None, None, None)


def test_resamples_without_a_score_are_left_out():
    some = values([0.1, 0.2, 0.3], np.random.default_rng(0).normal(0, 0.1, 100))
    more = np.hstack([some, np.full((3, 7), np.nan)])
    assert estimate(more, 40) == estimate(some, 40)
    assert estimate(more[:, [0, -1]], 40).p is None


def test_holm_by_hand():
    # ordered .01 .02 .03 .04 -> x4 .04, x3 .06, x2 .06, x1 .04; then never below the one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
