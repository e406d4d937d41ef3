import mir_eval
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonido_bench.metrics.notes import NOTE_METRICS, f1, frame_f1, matched_onsets, note_scores


def notes(*rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def random_notes(generator, count, pitches=4):
    onset = generator.random(count) * 2
    length = 0.05 + generator.random(count)
    pitch = generator.integers(60, 60 + pitches, count)
    return np.stack([onset, onset + length, pitch, generator.integers(1, 128, count)], axis=1)


def test_perfect_and_empty():
    some = notes([0, 1, 60, 80], [0.5, 1, 64, 20], [1, 2, 60, 127])
    none = notes()
    assert note_scores(some, some) == dict.fromkeys(NOTE_METRICS, 1.0)
    assert note_scores(none, none) == dict.fromkeys(NOTE_METRICS, 1.0)
    assert note_scores(some, none) == note_scores(none, some) == dict.fromkeys(NOTE_METRICS, 0.0)


def test_a_semitone_off_is_wrong():
    """MIDI numbers instead of Hz would let this pass: the defect of a published score."""
    reference = notes([0, 1, 60, 80], [1, 2, 72, 80])
    estimate = reference + notes([0, 0, 1, 0])
    assert note_scores(reference, estimate)["note_f1"] == 0


def test_each_metric_asks_for_more():
    reference = notes([0, 1, 60, 100], [1, 2, 62, 50], [2, 3, 64, 20], [3, 4, 65, 10])
    estimate = reference.copy()
    estimate[1, 1] += 0.5  # offset wrong
    estimate[0, 3] = 20  # velocity wrong
    estimate[3, 0] += 0.06  # onset wrong
    scores = note_scores(reference, estimate)
    assert scores["note_f1"] == pytest.approx(0.75)
    assert scores["note_offset_f1"] == pytest.approx(0.5)
    assert scores["note_offset_velocity_f1"] < scores["note_offset_f1"]


def test_notes_without_length_are_left_out():
    reference = notes([0, 1, 60, 80])
    assert note_scores(reference, notes([0, 1, 60, 80], [0.5, 0.5, 60, 80]))["note_f1"] == 1
    assert note_scores(reference, notes([0, 0, 60, 80]))["note_f1"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_greedy_pairs_are_as_many_as_mir_evals(seed):
    generator = np.random.default_rng(seed)
    reference, estimate = random_notes(generator, 60), random_notes(generator, 70)
    pairs = matched_onsets(reference, estimate)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    for i, j in pairs:
        assert reference[i, 2] == estimate[j, 2]
        assert abs(reference[i, 0] - estimate[j, 0]) <= 0.05005
    score = f1(len(pairs), len(reference), len(estimate))
    assert score == pytest.approx(note_scores(reference, estimate)["note_f1"], abs=1e-12)


@given(st.lists(st.integers(0, 40), max_size=8), st.lists(st.integers(0, 40), max_size=8))
@settings(max_examples=100, deadline=None)
def test_greedy_pairs_are_optimal_at_one_pitch(wanted, found):
    """Onsets on a grid of 10 ms, so that the tolerance is met exactly and often."""
    reference, estimate = (
        np.array([[0.01 * time, 0.01 * time + 1, 60, 64] for time in times]).reshape(-1, 4) for times in (wanted, found)
    )
    best = 0
    if wanted and found:
        best = len(
            mir_eval.transcription.match_notes(
                reference[:, :2],
                reference[:, 2] * 0 + 440,
                estimate[:, :2],
                estimate[:, 2] * 0 + 440,
                offset_ratio=None,
            )
        )
    assert len(matched_onsets(reference, estimate)) == best


def test_frame_f1_equals_mir_eval():
    generator = np.random.default_rng(0)
    reference, estimate = (generator.random((50, 88)) < 0.05 for _ in range(2))
    times = np.arange(50) * 0.032
    pitches = mir_eval.util.midi_to_hz(np.arange(21, 109))
    precision, recall, *_ = mir_eval.multipitch.metrics(
        times, [pitches[row] for row in reference], times, [pitches[row] for row in estimate]
    )
    assert frame_f1(reference, estimate) == pytest.approx(2 * precision * recall / (precision + recall))


def test_frame_f1_of_silence():
    silence, sound = np.zeros((3, 88), dtype=bool), np.ones((3, 88), dtype=bool)
    assert frame_f1(silence, silence) == 1
    assert frame_f1(sound, silence) == frame_f1(silence, sound) == 0
    assert frame_f1(sound, sound) == 1
