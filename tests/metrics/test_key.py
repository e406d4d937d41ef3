from mir_eval.key import weighted_score

from sonido_bench.metrics.key import KEYS, key_scores


def test_order_of_the_classes():
    assert len(set(KEYS)) == 24
    assert KEYS[0] == "C major"
    assert KEYS[11] == "B major"
    assert KEYS[12] == "C minor"
    assert KEYS[-1] == "B minor"


def test_every_pair_equals_mir_eval():
    references = [reference for reference in range(24) for _ in range(24)]
    estimates = list(range(24)) * 24
    expected = [weighted_score(KEYS[r], KEYS[e]) for r, e in zip(references, estimates, strict=True)]
    assert key_scores(references, estimates).tolist() == expected


def test_known_relations():
    c_major = KEYS.index("C major")
    estimates = [KEYS.index(key) for key in ("C major", "G major", "A minor", "C minor", "F# major")]
    assert key_scores([c_major] * 5, estimates).tolist() == [1, 0.5, 0.3, 0.2, 0]
