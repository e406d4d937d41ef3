from collections import Counter

import mir_eval
import numpy as np
import pytest

from sonido_bench.datamodules.rendering.composition import compose
from sonido_bench.datamodules.rendering.harmony import KEYS
from sonido_bench.datamodules.rendering.programs import DRUMS, TAGS, programs

# C. Krumhansl and E. Kessler's probe-tone profiles (1982): a key finder that knows nothing of the composer.
MAJOR = [6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88]
MINOR = [6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17]


@pytest.fixture(scope="module")
def compositions():
    return [compose(seed, "train", 6.0) for seed in range(240)]


def pitch_classes(composition):
    histogram = np.zeros(12)
    for part in composition.parts:
        for note in () if part.is_drum else part.notes:
            histogram[note.pitch % 12] += note.offset - note.onset
    return histogram


def test_a_seed_decides_all():
    assert compose(3, "test", 6.0) == compose(3, "test", 6.0)
    assert compose(3, "test", 6.0) != compose(4, "test", 6.0)


@pytest.mark.parametrize("seconds", [1.0, 6.0, 45.0])
def test_music_fills_the_clip(seconds):
    for seed in range(20):
        notes = [note for part in compose(seed, "test", seconds).parts for note in part.notes]
        assert 0 <= min(note.onset for note in notes) < 0.5
        assert seconds - 0.5 < max(note.offset for note in notes) <= seconds
        onsets = np.sort([note.onset for note in notes])
        assert np.diff(onsets).max(initial=0) < 2.1  # no longer than the slowest chord


def test_notes_are_playable(compositions):
    for composition in compositions:
        for part in composition.parts:
            last = {}
            for note in part.notes:
                assert 0 <= note.onset < note.offset <= 6
                assert 21 <= note.pitch <= 108
                assert 1 <= note.velocity <= 127
                assert note.onset >= last.get(note.pitch, 0.0), "a key is pressed twice"
                last[note.pitch] = note.offset


def test_ensembles(compositions):
    for composition in compositions:
        roles = [part.role for part in composition.parts]
        assert 3 <= len(roles) <= 6
        assert len(set(roles)) == len(roles)
        assert {"chords", "pad"} & set(roles)
        assert 60 <= composition.tempo <= 180
        for part in composition.parts:
            assert part.program in programs(part.family, "train")
            assert part.is_drum == (part.family == DRUMS) == (part.role == "drums")
    assert {composition.metre for composition in compositions} == {3, 4}
    heard = Counter(family for composition in compositions for family in composition.families)
    for tag in TAGS:
        assert 0.1 < heard[tag] / len(compositions) < 0.8, tag


def test_test_split_alone_plays_its_own_programs():
    heard = {part.program for seed in range(150) for part in compose(seed, "test", 6.0).parts if not part.is_drum}
    known = {program for tag in TAGS if tag != DRUMS for program in programs(tag, "train")}
    assert len(heard - known) > 20


def test_keys_are_balanced(compositions):
    assert Counter(composition.key for composition in compositions) == dict.fromkeys(KEYS, len(compositions) // 24)


def test_key_follows_from_the_notes(compositions):
    profiles = np.array([np.roll(profile, tonic) for profile in (MAJOR, MINOR) for tonic in range(12)])
    scores = []
    for composition in compositions:
        histogram = pitch_classes(composition)
        found = KEYS[int(np.argmax([np.corrcoef(profile, histogram)[0, 1] for profile in profiles]))]
        scores.append(mir_eval.key.weighted_score(composition.key, found))
    assert np.mean(scores) > 0.8


def test_clips_start_on_any_chord(compositions):
    on_tonic = 0
    for composition in compositions:
        bass = next((part for part in composition.parts if part.role == "bass"), None)
        on_tonic += bass is not None and bass.notes[0].pitch % 12 == composition.tonic
    with_bass = sum(any(part.role == "bass" for part in composition.parts) for composition in compositions)
    assert 0.2 < on_tonic / with_bass < 0.6
