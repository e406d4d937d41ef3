import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from sonido_bench.datamodules.musdb18 import (
    STEMS,
    VALIDATION_TRACKS,
    MUSDB18DataModule,
    MUSDB18HQDataModule,
)
from sonido_bench.errors import DataError

RATE = 44100
OPTIONS = {"segment_seconds": 0.2, "chunk_seconds": 0.25, "batch_size": 2}
FILES = ("mixture", *STEMS)
MUSDB = importlib.util.find_spec("musdb")  # a test dependency, as are ffmpeg and ffprobe on PATH


def write_track(folder, frames=RATE // 2, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    stems = {name: 0.1 * rng.uniform(-1, 1, (frames, 2)) for name in STEMS}
    stems["bass"][:] = 0
    for name, audio in {"mixture": sum(stems.values()), **stems}.items():
        soundfile.write(folder / f"{name}.wav", audio, RATE, subtype="PCM_16")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("musdb18hq")
    names = ["A - One", "B - Two", VALIDATION_TRACKS[1], VALIDATION_TRACKS[6]]
    for seed, name in enumerate(names):
        write_track(root / "train" / name, RATE // 2 + 11 * seed, seed)
    write_track(root / "test" / "C - Three", RATE // 2 + 1)
    return root


def ready(root, **options):
    data = MUSDB18HQDataModule(root, **(OPTIONS | options))
    data.prepare_data()
    data.setup()
    return data


def test_the_validation_tracks_are_those_of_the_musdb_package():
    settings = yaml.safe_load((Path(MUSDB.origin).parent / "configs" / "mus.yaml").read_text(encoding="utf-8"))
    assert sorted(settings["validation_tracks"]) == sorted(VALIDATION_TRACKS)
    assert len(VALIDATION_TRACKS) == 14
    assert set(settings["sources"]) == set(STEMS)


def test_the_split_of_all_150_names(tmp_path):
    """86, 14 and 50, as musdb divides folders of these names."""
    for subset, names in {
        "train": [*VALIDATION_TRACKS, *(f"Artist {number} - Title" for number in range(86))],
        "test": [f"Tested {number} - Title" for number in range(50)],
    }.items():
        for name in names:
            folder = tmp_path / subset / name
            folder.mkdir(parents=True)
            for file in FILES:
                (folder / f"{file}.wav").touch()
    data = MUSDB18HQDataModule(tmp_path)
    assert [len(data.find(split)) for split in ("train", "validation", "test")] == [86, 14, 50]
    assert {track.name for track in data.find("validation")} == set(VALIDATION_TRACKS)


def test_batches(root):
    data = ready(root)
    assert sorted(track.name for track in data.tracks("train")) == ["A - One", "B - Two"]
    assert {track.name for track in data.tracks("validation")} == {VALIDATION_TRACKS[1], VALIDATION_TRACKS[6]}
    batch = next(iter(data.train_dataloader()))
    assert batch["stems"].shape == (2, 4, 2, 8820)
    assert batch["stem_names"] == ("vocals", "drums", "bass", "other")
    assert not batch["stems"][:, 2].any()  # the silent stem
    torch.testing.assert_close(batch["stems"].sum(dim=1), batch["mixture"], atol=3e-4, rtol=0)
    test = [item for batch in data.test_dataloader() for item in batch["mixture"]]
    expected, _ = soundfile.read(root / "test" / "C - Three" / "mixture.wav", dtype="float32")
    assert torch.equal(torch.cat(test, dim=1), torch.from_numpy(expected.T.copy()))
    assert [clip.path.name for clip in data.clips("test")] == ["mixture.wav"] * 2


def test_the_reader_agrees_with_musdb(root):
    import musdb

    track = musdb.DB(str(root), is_wav=True, subsets="test").tracks[0]
    ours = ready(root).tracks("test")[0]
    stems, mixture = ours.read(0, ours.samples(RATE), ready(root).format)
    np.testing.assert_array_equal(mixture.numpy().T, track.audio.astype(np.float32))
    np.testing.assert_array_equal(stems[0].numpy().T, track.targets["vocals"].audio.astype(np.float32))


def test_a_part_of_a_track_that_is_missing_or_cut_is_found(tmp_path):
    write_track(tmp_path / "train" / "A - One")
    (tmp_path / "train" / "A - One" / "bass.wav").unlink()
    with pytest.raises(DataError, match="A - One: has no file of bass; fetch"):
        ready(tmp_path)
    soundfile.write(tmp_path / "train" / "A - One" / "bass.wav", np.zeros((1000, 2)), RATE)
    with pytest.raises(DataError, match="'A - One' differ in frames"):
        ready(tmp_path)
    shutil.copy(tmp_path / "train" / "A - One" / "vocals.wav", tmp_path / "train" / "A - One" / "bass.wav")
    cut = (tmp_path / "train" / "A - One" / "bass.wav").read_bytes()
    (tmp_path / "train" / "A - One" / "bass.wav").write_bytes(cut[:-100])
    with pytest.raises(DataError, match="before its header says"):
        ready(tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="expected tracks to train on, found none; fetch MUSDB18-HQ"):
        ready(tmp_path)
    with pytest.raises(DataError, match="fetch MUSDB18, give"):
        MUSDB18DataModule(tmp_path).prepare_data()


def test_normalised_stems_are_the_input_of_mixing(tmp_path):
    folder = tmp_path / "train" / "A - One"
    write_track(folder)
    for name in STEMS:
        soundfile.write(folder / f"{name}_normalized.wav", np.full((RATE // 2, 2), 0.25), RATE)
    batch = next(iter(ready(tmp_path, target="mix", normalised=True).train_dataloader()))
    assert (batch["stems"] == 0.25).all()
    assert batch["audio"].shape == (2, 1, 8820)
    assert (batch["audio"] == 1.0).all()


def encode(folder, path):
    command = ["ffmpeg", "-loglevel", "error"]
    for name in ("mixture", "drums", "bass", "other", "vocals"):
        command += ["-i", str(folder / f"{name}.wav")]
    for number in range(5):
        command += ["-map", str(number)]
    command += ["-c:a", "aac", "-b:a", "256k", str(path)]
    subprocess.run(command, check=True, timeout=60)


def test_mp4_stems_are_decoded_once(tmp_path):
    write_track(tmp_path / "wav" / "A - One")
    (tmp_path / "musdb18" / "train").mkdir(parents=True)
    encode(tmp_path / "wav" / "A - One", tmp_path / "musdb18" / "train" / "A - One.stem.mp4")
    data = MUSDB18DataModule(tmp_path / "musdb18", **OPTIONS)
    assert data.describe()["prepared"] == "no"
    assert [job.label for job in data.preparation_jobs()] == ["A - One"]
    data.prepare_data()
    assert data.preparation_jobs() == []
    assert data.root == tmp_path / "musdb18-wav"
    track = data.tracks("train")[0]
    stems, _ = track.read(0, RATE // 2, data.format)
    for place, name in enumerate(STEMS):
        original, _ = soundfile.read(tmp_path / "wav" / "A - One" / f"{name}.wav", dtype="float32")
        likeness = np.corrcoef(stems[place].flatten().numpy(), original.T.flatten())[0, 1] if name != "bass" else 1
        assert likeness > 0.8  # AAC of noise; another stem's noise would have 0
    assert not stems[2].abs().max() > 1e-3
    assert not list((tmp_path / "musdb18-wav" / "train").glob(".*"))


def test_without_ffmpeg_the_error_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "musdb18" / "train").mkdir(parents=True)
    (tmp_path / "musdb18" / "train" / "A - One.stem.mp4").write_bytes(b"mp4")
    for module in [name for name in sys.modules if name.split(".")[0] in ("musdb", "stempeg")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"ffmpeg and ffprobe on PATH.*use MUSDB18-HQ"):
        MUSDB18DataModule(tmp_path / "musdb18").prepare_data()
