import builtins

import numpy as np
import pytest

from sonido_bench.datamodules.rendering.composition import Note, Part
from sonido_bench.datamodules.rendering.programs import TAGS, octave, programs
from sonido_bench.datamodules.rendering.synthesis import SAMPLE_RATE, find_soundfont, play
from sonido_bench.errors import DataError

SOUNDFONT = find_soundfont(None)
PITCHED = [(tag, program) for tag in TAGS if tag != "drums" for program in programs(tag, "test")]


def solo(program, *notes, is_drum=False):
    return Part("melody", program, "piano", is_drum, notes)


def harmonic_strength(audio, pitch):
    """Strength of the first six harmonics of a pitch."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 17))
    bins = 440 * 2 ** ((pitch - 69) / 12) * np.arange(1, 7) / SAMPLE_RATE * (1 << 17)
    return sum(spectrum[int(place * 0.99) : int(place * 1.01) + 1].max() for place in bins)


@pytest.mark.parametrize(("family", "program"), PITCHED)
def test_programs_sound_the_pitch_at_the_onset(family, program):
    for pitch in (30, 36, 50) if family == "bass" else (52, 65, 82):
        pitch += 12 * octave(program)
        audio = play(solo(program, Note(0.1, 0.6, pitch, 90)), 0.7, SOUNDFONT).mean(axis=0)
        onset = round(0.1 * SAMPLE_RATE)
        assert not audio[:onset].any()
        loud = np.abs(audio) > 0.05 * np.abs(audio).max()
        attack = 0.06 if family in ("synth_pad", "strings") else 0.03
        assert np.argmax(loud) - onset < attack * SAMPLE_RATE
        sounding = audio[onset + 2000 :]
        others = [harmonic_strength(sounding, pitch + shift) for shift in (-6, -4, -3, -2, -1, 1, 2, 3, 4, 6)]
        assert harmonic_strength(sounding, pitch) > max(others), pitch


@pytest.mark.parametrize("kit", programs("drums", "test"))
def test_kits_strike_on_the_sample(kit):
    strokes = [Note(0.1 + 0.2 * place, 0.2 + 0.2 * place, key, 100) for place, key in enumerate((36, 38, 42))]
    audio = np.abs(play(solo(kit, *strokes, is_drum=True), 0.8, SOUNDFONT)).max(axis=0)
    assert not audio[: round(0.1 * SAMPLE_RATE)].any()
    for stroke in strokes:
        onset = round(stroke.onset * SAMPLE_RATE)
        assert audio[onset : onset + 1323].max() > 2 * audio[onset - 441 : onset].max()


def test_releases_ring_on_and_decay():
    audio = play(solo(0, Note(0.1, 0.5, 60, 100)), 3.0, SOUNDFONT)
    offset = round(0.5 * SAMPLE_RATE)
    assert audio.shape == (2, 3 * SAMPLE_RATE)
    assert audio.dtype == np.float32
    assert np.abs(audio[:, offset : offset + 2000]).max() > 1e-3
    assert np.abs(audio[:, -4410:]).max() < 1e-4


def test_louder_velocity_is_louder():
    soft, loud = (np.abs(play(solo(0, Note(0.0, 0.5, 60, v)), 0.5, SOUNDFONT)).max() for v in (40, 120))
    assert loud > 2 * soft


def test_repeats_are_bit_identical():
    part = solo(73, Note(0.0, 0.3, 72, 80), Note(0.3, 0.6, 74, 90))
    np.testing.assert_array_equal(play(part, 0.8, SOUNDFONT), play(part, 0.8, SOUNDFONT))


def test_missing_synthesiser_names_the_line_to_run(monkeypatch):
    real_import = builtins.__import__

    def without_tinysoundfont(name, *args, **kwargs):
        if name == "tinysoundfont":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tinysoundfont)
    with pytest.raises(DataError, match="pip install --no-deps tinysoundfont"):
        play(solo(0), 0.1, SOUNDFONT)


def test_bad_soundfonts(tmp_path):
    with pytest.raises(DataError, match="no soundfont at"):
        find_soundfont(str(tmp_path / "none.sf2"))
    damaged = tmp_path / "damaged.sf2"
    damaged.write_bytes(SOUNDFONT.read_bytes()[:1000])
    with pytest.raises(DataError, match="give another soundfont"):
        play(solo(0), 0.1, damaged)
