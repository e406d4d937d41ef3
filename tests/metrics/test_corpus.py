import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from sonido_bench.metrics.corpus import CORPUS_SCORES, average_precision, r2, roc_auc


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_ranking_scores_equal_sklearn(seed, ties):
    generator = np.random.default_rng(seed)
    targets = (generator.random((60, 7)) < 0.3).astype(float)
    predictions = generator.random((60, 7)) + 0.3 * targets
    if ties:
        predictions = predictions.round(1)
    assert average_precision(targets, predictions) == pytest.approx(
        sklearn_metrics.average_precision_score(targets, predictions, average="macro"), abs=1e-12
    )
    assert roc_auc(targets, predictions) == pytest.approx(
        sklearn_metrics.roc_auc_score(targets, predictions, average="macro"), abs=1e-12
    )


def test_r2_equals_sklearn():
    generator = np.random.default_rng(0)
    targets = generator.normal(size=(40, 3)) * [1, 10, 100] + 5
    predictions = targets + generator.normal(size=(40, 3)) * 3
    assert r2(targets, predictions) == pytest.approx(sklearn_metrics.r2_score(targets, predictions), abs=1e-12)


def test_identities():
    targets = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    for score in CORPUS_SCORES.values():
        assert score(targets, targets) == pytest.approx(1)
    assert roc_auc(targets, np.zeros((3, 2))) == pytest.approx(0.5)
    assert roc_auc(targets, -targets) == 0
    assert r2(targets, np.broadcast_to(targets.mean(0), targets.shape)) == pytest.approx(0)


def test_columns_without_a_score_are_left_out():
    targets = np.array([[0.0, 1.0, 0.1], [0.0, 1.0, 0.1], [0.0, 0.0, 0.1]])
    predictions = np.array([[0.3, 0.9, 0.2], [0.2, 0.8, 0.2], [0.1, 0.1, 0.2]])
    assert average_precision(targets[:, :2], predictions[:, :2]) == 1
    assert roc_auc(targets[:, :2], predictions[:, :2]) == 1
    assert r2(targets[:, 1:], predictions[:, 1:]) == r2(targets[:, 1:2], predictions[:, 1:2])
    for score in CORPUS_SCORES.values():
        assert np.isnan(score(targets[:, :1], predictions[:, :1]))


def test_bad_input_is_refused():
    for score in CORPUS_SCORES.values():
        with pytest.raises(ValueError, match=r"\(3, 2\), \(3, 1\)"):
            score(np.zeros((3, 2)), np.zeros((3, 1)))
        with pytest.raises(ValueError, match="not finite"):
            score(np.ones((3, 2)), np.full((3, 2), np.nan))
        with pytest.raises(ValueError, match="expected targets"):
            score([], [])
