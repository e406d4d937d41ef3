import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sonido_bench.benchmark.logistic import LinearProbe, choose_penalty, fit_probe


def problem(items: int, dim: int, exclusive: bool, classes: int = 4):
    """Features of very different scales and places, and targets that follow from them but for some noise."""
    rng = np.random.default_rng(items)
    standard = rng.normal(size=(items, dim))
    logits = 3 * standard[:, :5] @ rng.normal(size=(5, classes)) / 5**0.5 + rng.normal(size=(items, classes))
    features = standard * 10 ** rng.uniform(-2, 2, dim) + 10 * rng.normal(size=dim)
    return features, np.eye(classes)[logits.argmax(1)] if exclusive else (logits > 1).astype(float)


@pytest.mark.parametrize(("items", "dim"), [(120, 30), (40, 100)])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
@pytest.mark.parametrize("exclusive", [True, False])
def test_the_fit_is_that_of_scikit_learn(items, dim, penalty, exclusive):
    features, targets = problem(items, dim, exclusive)
    standardised = (features - features.mean(0)) / features.std(0)
    found = fit_probe(features, targets, penalty, exclusive)(features)
    labels = [targets.argmax(1)] if exclusive else list(targets.T)
    reference = LogisticRegression(C=1 / (penalty * items), tol=1e-10, max_iter=10_000)
    expected = [reference.fit(standardised, label).decision_function(standardised) for label in labels]
    if exclusive:  # the softmax does not see what all classes share
        found = found - found.mean(1, keepdims=True)
        assert np.allclose(found, expected[0] - expected[0].mean(1, keepdims=True), atol=5e-3)
    else:
        assert np.allclose(found, np.stack(expected, axis=1), atol=5e-3)


def test_single_precision_finds_the_same():
    features, targets = problem(120, 30, False)
    double = fit_probe(features, targets, 0.03, False)(features)
    single = fit_probe(features.astype(np.float32), targets, 0.03, False)(features.astype(np.float32))
    assert single.dtype == np.float32
    assert np.allclose(single, double, atol=5e-3)


def test_features_that_never_vary_count_for_nothing():
    features, targets = problem(60, 10, True)
    constant = np.hstack([features, np.full((60, 3), 7.3)])
    probe = fit_probe(constant, targets, 0.1, True)
    assert np.allclose(probe(constant), fit_probe(features, targets, 0.1, True)(features), atol=1e-4)
    assert not probe.weight[-3:].any()
    silent = fit_probe(np.zeros((60, 3)), targets, 0.1, True)
    prior = targets.mean(0)
    assert np.allclose(np.exp(silent(np.zeros((1, 3))) - silent.bias.max()), prior / prior.max(), atol=1e-3)


def test_a_class_that_never_occurs_is_unlikely_and_harms_nothing():
    features, targets = problem(60, 10, False)
    targets[:, 2] = 0
    probe = fit_probe(features, targets, 0.1, False)
    assert (probe(features)[:, 2] < -3).all()


@pytest.mark.parametrize("exclusive", [True, False])
def test_cross_validation_penalises_noise_and_trusts_a_clear_case(exclusive):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(80, 60))
    targets = np.eye(4)[rng.integers(4, size=80)]
    assert choose_penalty(noise, targets, exclusive, np.arange(80)) == 3.0
    clear = 3 * targets + 0.01 * rng.normal(size=(80, 4))
    assert choose_penalty(clear, targets, exclusive, np.arange(80)) <= 0.003


def test_items_that_are_alike_are_held_out_together():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(20, 60)), np.eye(4)[rng.integers(4, size=20)]
    features, targets = np.repeat(features, 4, axis=0), np.repeat(targets, 4, axis=0)
    assert choose_penalty(features, targets, True, np.arange(80)) == 0.001  # it knows the held-out items' copies
    assert choose_penalty(features, targets, True, np.repeat(np.arange(20), 4)) == 3.0


def test_a_probe_is_linear():
    probe = LinearProbe(np.eye(2), np.array([1.0, 2.0]))
    assert probe(np.array([[3.0, 4.0]])).tolist() == [[4.0, 6.0]]
