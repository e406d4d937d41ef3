import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pretty_midi
import pytest
import soundfile

from sonido_bench.datamodules.rendering import track as track_module
from sonido_bench.datamodules.rendering.dataset import (
    RenderedConfig,
    finish,
    load_manifest,
    prepare,
    tracks_to_render,
    verify,
    version,
)
from sonido_bench.datamodules.rendering.mixing import Mix
from sonido_bench.datamodules.rendering.programs import SPLITS
from sonido_bench.datamodules.rendering.statistics import describe
from sonido_bench.datamodules.rendering.synthesis import find_soundfont
from sonido_bench.datamodules.rendering.track import MAX_DATA_SEED, MAX_TRACKS, render_job, track_seed
from sonido_bench.errors import ConfigError, DataError

CONFIG = RenderedConfig(seed=5, seconds=2.0, train=2, validation=1, test=1, pretrain=1, stems=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("rendered")
    calls = []
    return prepare(root, CONFIG, progress=lambda done, total: calls.append((done, total))), calls


def test_seeds_of_splits_never_meet():
    """A split's seeds are an interval; the intervals of all splits and of neighbouring data seeds are disjoint."""
    intervals = sorted(
        (track_seed(data_seed, split, 0), track_seed(data_seed, split, MAX_TRACKS - 1))
        for data_seed in (0, 1, 2, MAX_DATA_SEED - 1)
        for split in SPLITS
    )
    assert all(last - first == MAX_TRACKS - 1 for first, last in intervals)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(intervals))
    with pytest.raises(ValueError, match="index"):
        track_seed(0, "train", MAX_TRACKS)
    with pytest.raises(ValueError, match="data_seed"):
        track_seed(-1, "train", 0)


def test_layout(made):
    manifest, calls = made
    assert calls == [(done, 5) for done in range(1, 6)]
    assert [track.name for track in manifest.tracks] == [
        "train-00000",
        "train-00001",
        "validation-00000",
        "test-00000",
        "pretrain-00000",
    ]
    musdb = manifest.root / "musdb18hq"
    assert {folder.name for folder in (musdb / "train").iterdir()} == {
        f"Rendered - {name}" for name in ("train-00000", "train-00001", "validation-00000", "pretrain-00000")
    }
    assert {file.name for file in (musdb / "test" / "Rendered - test-00000").iterdir()} == {
        f"{stem}.wav" for stem in ("mixture", "vocals", "drums", "bass", "other")
    }
    with (manifest.root / "maestro-rendered.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train", "train", "validation", "test"]
    for row in rows:
        assert (manifest.root / row["midi_filename"]).is_file()
        assert soundfile.info(manifest.root / row["audio_filename"]).duration == float(row["duration"]) == 2.0


def test_mixture_is_the_sum_of_musdb_stems(made):
    root = made[0].root
    for folder in (root / "musdb18hq").glob("*/*"):
        mixture, *stems = (
            soundfile.read(folder / f"{stem}.wav")[0] for stem in ("mixture", "vocals", "drums", "bass", "other")
        )
        np.testing.assert_allclose(sum(stems), mixture, atol=3 / 32768)  # five roundings to 16 bits
        flac, _ = soundfile.read(next(root.glob(f"*/{folder.name.removeprefix('Rendered - ')}.flac")))
        np.testing.assert_array_equal(flac, mixture)
        assert np.abs(mixture).max() < 0.98


def test_dry_stems_and_recorded_effects_give_the_mix(made):
    manifest = made[0]
    for track in manifest.tracks:
        dry = [
            soundfile.read(manifest.root / "dry" / track.name / f"{part['role']}.wav", dtype="float32")[0].T
            for part in track.parts
        ]
        mixture = Mix.from_dict(track.mix).mixture(dry, track.sample_rate)
        written, _ = soundfile.read(manifest.root / track.audio)
        np.testing.assert_allclose(mixture.T, written, atol=1e-4)


def test_midi_holds_the_notes(made):
    manifest = made[0]
    for track in manifest.tracks:
        midi = pretty_midi.PrettyMIDI(str(manifest.root / track.midi))
        assert midi.get_tempo_changes()[1][0] == pytest.approx(track.tempo, rel=1e-4)
        assert midi.time_signature_changes[0].numerator == track.metre
        assert (
            pretty_midi.key_number_to_key_name(midi.key_signature_changes[0].key_number).split()[1].lower()
            == track.mode
        )
        read = {instrument.name: instrument for instrument in midi.instruments}
        for index, part in enumerate(track.parts):
            instrument = read[part["role"]]
            assert (instrument.program, instrument.is_drum) == (part["program"], part["is_drum"])
            expected = [(pitch, velocity) for i, _, _, pitch, velocity in track.notes if i == index]
            assert sorted((note.pitch, note.velocity) for note in instrument.notes) == sorted(expected)
            onsets = sorted(onset for i, onset, *_ in track.notes if i == index)
            np.testing.assert_allclose(sorted(note.start for note in instrument.notes), onsets, atol=1e-3)


def test_sound_fits_the_notes(made):
    """Energy rises at onsets, and the spectrum's pitch classes are those of the notes."""
    manifest = made[0]
    agreements, rises = [], []
    for track in manifest.tracks:
        audio = soundfile.read(manifest.root / track.audio)[0].mean(axis=1)
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
        frequencies = np.fft.rfftfreq(len(audio), 1 / track.sample_rate)
        heard = (frequencies > 60) & (frequencies < 1500)
        classes = np.round(12 * np.log2(frequencies[heard] / 440) + 69).astype(int) % 12
        chroma = np.bincount(classes, spectrum[heard], minlength=12)
        notes = np.array([note[1:] for note in track.notes if not track.parts[int(note[0])]["is_drum"]])
        expected = np.bincount(notes[:, 2].astype(int) % 12, notes[:, 1] - notes[:, 0], minlength=12)
        agreements.append(np.corrcoef(chroma, expected)[0, 1])
        energy = np.concatenate([[0], np.cumsum(np.diff(audio) ** 2)])
        window = round(0.03 * track.sample_rate)
        for onset in (round(note[1] * track.sample_rate) for note in track.notes):
            if window < onset < len(energy) - window:
                before, after = energy[onset] - energy[onset - window], energy[onset + window] - energy[onset]
                rises.append(after / (before + 1e-12))
    assert np.mean(agreements) > 0.6
    assert np.median(rises) > 2


def test_manifest_and_card(made):
    manifest = made[0]
    assert load_manifest(manifest.root) == manifest
    assert manifest.card["version"] == version(CONFIG)
    assert str(manifest.root) not in json.dumps(manifest.card)
    assert [track.name for track in manifest.split("test")] == ["test-00000"]
    assert verify(manifest.root) == []


def test_version_follows_what_decides_the_data(tmp_path):
    assert version(CONFIG) == version(replace(CONFIG, soundfont=str(find_soundfont(None))))
    other = tmp_path / "other.sf2"
    other.write_bytes(find_soundfont(None).read_bytes() + b"0")
    changed = [{"seed": 6}, {"seconds": 3.0}, {"train": 3}, {"stems": False}, {"soundfont": str(other)}]
    assert len({version(CONFIG), *(version(replace(CONFIG, **change)) for change in changed)}) == 6
    with pytest.raises(DataError, match="no soundfont at"):
        version(replace(CONFIG, soundfont=str(tmp_path / "none.sf2")))


def test_damage_is_found_and_mended(tmp_path):
    config = replace(CONFIG, train=2, validation=0, test=0, pretrain=0, seconds=1.0, stems=False)
    manifest = prepare(tmp_path, config)
    first, second = (tmp_path / track.audio for track in manifest.tracks)
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()
    assert verify(tmp_path) == [
        "train/train-00000.flac: damaged (its checksum differs)",
        "train/train-00001.flac: missing",
    ]
    first.unlink()
    assert len(tracks_to_render(tmp_path, config)) == 2
    assert prepare(tmp_path, config) == manifest
    assert verify(tmp_path) == []


def test_missing_or_damaged_descriptions(tmp_path):
    config = replace(CONFIG, train=1, validation=0, test=0, pretrain=0, seconds=1.0, stems=False)
    with pytest.raises(DataError, match="prepare it first"):
        load_manifest(tmp_path)
    with pytest.raises(DataError, match="train-00000 is missing"):
        finish(tmp_path, config)
    prepare(tmp_path, config)
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="not the manifest"):
        load_manifest(tmp_path)
    (tmp_path / "rows" / "train-00000.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        tracks_to_render(tmp_path, config)


def test_killed_rendering_goes_on(tmp_path):
    config = RenderedConfig(seconds=1.0, train=6, validation=0, test=0)
    code = (
        "from pathlib import Path\n"
        "from sonido_bench.datamodules.rendering.dataset import RenderedConfig, prepare\n"
        f"prepare(Path({str(tmp_path)!r}), RenderedConfig(seconds=1.0, train=600, validation=0, test=0))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("rows/train-*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("rows/train-0000[0-5].json")}
    assert len(kept) >= 2
    assert len(tracks_to_render(tmp_path, config)) == 6 - len(kept)
    manifest = prepare(tmp_path, config)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in kept.items())
    assert verify(tmp_path) == []
    assert len(manifest.tracks) == 6


def test_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(track_module, "write_json", full)
    config = replace(CONFIG, train=1, seconds=1.0, stems=False)
    with pytest.raises(DataError, match="No space left on device; free some space"):
        render_job(tracks_to_render(tmp_path, config)[0])
    assert len(tracks_to_render(tmp_path, config)) == 4 + config.pretrain - 1


@pytest.mark.parametrize("change", [{"seed": -1}, {"seconds": 0.1}, {"seconds": float("nan")}, {"train": -1}])
def test_bad_configuration(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        RenderedConfig(**(asdict(CONFIG) | change))


def test_same_bytes_in_any_process(made, tmp_path):
    calls = []
    manifest = prepare(tmp_path, CONFIG, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert manifest.tracks == made[0].tracks  # with the checksums of all files
    assert calls == [(done, 5) for done in range(1, 6)]
    assert manifest.card == made[0].card
    assert tracks_to_render(tmp_path, CONFIG) == []


def test_failing_worker_reports(tmp_path):
    damaged = tmp_path / "damaged.sf2"
    damaged.write_bytes(b"RIFF")
    with pytest.raises(DataError, match="give another soundfont"):
        prepare(tmp_path / "data", replace(CONFIG, soundfont=str(damaged)), workers=2)


def test_statistics(made):
    manifest = made[0]
    figures = json.loads(json.dumps(describe(manifest), allow_nan=False))
    assert list(figures) == ["train", "validation", "test", "pretrain"]
    train = manifest.split("train")
    assert figures["train"]["tracks"] == 2
    assert figures["train"]["minutes"] == 0.1
    assert figures["train"]["tempo (beats a minute)"][0] == min(track.tempo for track in train)
    assert figures["train"]["share of tracks with tag"]["drums"] == np.mean(
        ["drums" in track.families for track in train]
    )
    assert figures["test"]["peak"][2] < 0.98
    assert figures["test"]["first onset (s)"][2] < 0.5
