from itertools import islice, pairwise

import mir_eval
import numpy as np
import pytest

from sonido_bench.datamodules.rendering.harmony import CHORDS, KEYS, MODES, PHRASES, chord_form, key_label, spans


def test_keys_are_mir_evals():
    assert len(set(KEYS)) == 24
    for key in KEYS:
        mir_eval.key.validate_key(key)
    assert key_label(6, "minor") == "F# minor"


@pytest.mark.parametrize("mode", MODES)
def test_every_phrase_settles_the_key(mode):
    tonic = {"major": "I", "minor": "i"}[mode]
    for phrase in PHRASES[mode]:
        chords = [CHORDS[name] for name in phrase]
        assert tonic in phrase
        assert any(11 in chord.intervals for chord in chords), f"{phrase} has no leading note"
        for chord in chords:
            assert set(chord.intervals) <= set(chord.scale(mode)), phrase


@pytest.mark.parametrize("mode", MODES)
def test_form_is_made_of_the_modes_phrases(mode):
    form = chord_form(mode, np.random.default_rng(0))
    phrases = {tuple(CHORDS[name] for name in phrase) for phrase in PHRASES[mode]}
    assert len(form) == 16
    assert {form[start : start + 4] for start in range(0, 16, 4)} <= phrases


@pytest.mark.parametrize("metre", [3, 4])
@pytest.mark.parametrize("tempo", [60.0, 67.0, 99.0, 134.0, 180.0])
@pytest.mark.parametrize("first", [0, 5, 15])
def test_spans_follow_without_gaps(metre, tempo, first):
    form = chord_form("minor", np.random.default_rng(1))
    heard = list(islice(spans(form, metre, tempo, first), 40))
    assert heard[0].chord == form[first]
    for span, following in pairwise(heard):
        assert span.start + span.beats == following.start
    assert max(span.beats for span in heard) * 60 / tempo <= 2  # a phrase fits into a clip
    assert sum(span.beats for span in heard[:4]) * 60 / tempo <= 8
