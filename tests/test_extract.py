"""Features of a user's own audio, through the command line."""

import json

import numpy as np
import pytest
import soundfile
from safetensors import safe_open

from sonido_bench.cli import main
from sonido_bench.foundation.chroma import Chroma


@pytest.fixture
def song(tmp_path):
    time = np.arange(2 * 48_000) / 48_000
    path = tmp_path / "song.wav"
    soundfile.write(path, np.stack([np.sin(2 * np.pi * 440 * time), np.zeros_like(time)], 1) * 0.5, 48_000)
    return path


def test_features_are_written_with_their_places_in_time(song, tmp_path, capsys):
    assert main(["extract", str(song), "-o", str(tmp_path / "out"), "--extractor", "chroma"]) == 0
    assert "chroma (" in capsys.readouterr().out
    with safe_open(tmp_path / "out" / "song.safetensors", "pt") as file:
        chroma, metadata = file.get_tensor("chroma"), file.metadata()
    spec = Chroma().spec
    assert chroma.shape == (spec.frames("chroma", 2 * spec.sample_rate), 12)
    assert (chroma[2:-2].argmax(1) == 9).all()  # A
    assert json.loads(metadata["streams"])["chroma"]["frame_rate"] == spec.frame_rate("chroma")
    assert metadata["fingerprint"] == Chroma().fingerprint()


@pytest.mark.parametrize("problem", ["missing", "text", "nan", "empty"])
def test_bad_audio_is_one_line(problem, tmp_path, capsys):
    path = tmp_path / "bad.wav"
    if problem == "text":
        path.write_text("no audio")
    elif problem != "missing":
        soundfile.write(path, np.full(1000 if problem == "nan" else 0, np.nan), 8000, subtype="FLOAT")
    assert main(["extract", str(path), "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "bad.wav" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_files_that_would_overwrite_each_other_are_refused(song, tmp_path, capsys):
    assert main(["extract", str(song), str(tmp_path / "b" / "song.flac"), "-o", str(tmp_path / "out")]) == 2
    assert "same name" in capsys.readouterr().err


def test_an_unwritable_folder_is_one_line(song, tmp_path, capsys):
    assert main(["extract", str(song), "-o", str(song / "out")]) == 1
    assert "choose another --output folder" in capsys.readouterr().err
