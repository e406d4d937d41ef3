import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from sonido_bench.audio import resample
from sonido_bench.datamodules.stems.audio_file import examine, read_part
from sonido_bench.errors import DataError
from sonido_bench.files import sha256_file

RATE = 8000
FRAMES = 12_345


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (FRAMES, 2))
    for rate in (RATE, 11025, 22050):
        soundfile.write(folder / f"{rate}.wav", noise, rate, subtype="FLOAT")
    soundfile.write(folder / "mono.flac", noise[:, 0], RATE)
    soundfile.write(folder / "quad.wav", np.tile(noise, 2), RATE)
    return folder


def test_a_file_is_described(folder):
    file = examine(folder / "11025.wav")
    assert (file.frames, file.sample_rate, file.channels) == (FRAMES, 11025, 2)
    assert file.sha256 == sha256_file(file.path)
    assert file.samples(11025) == FRAMES
    assert file.samples(22050) == 2 * FRAMES


def test_a_part_is_what_soundfile_reads(folder):
    part = read_part(examine(folder / "8000.wav"), 1000, 500, RATE, 2)
    expected, _ = soundfile.read(folder / "8000.wav", frames=500, start=1000, dtype="float32")
    assert torch.equal(part, torch.from_numpy(expected.T.copy()))


@given(st.sampled_from([11025, 22050]), st.lists(st.integers(1, 5000), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_resampled_parts_join_to_the_resampled_whole(folder, rate, lengths):
    file = examine(folder / f"{rate}.wav")
    whole = resample(torch.from_numpy(soundfile.read(file.path, dtype="float32")[0].T.copy()), rate, RATE)
    assert whole.shape[1] == file.samples(RATE)
    start, parts = 0, []
    for length in lengths:
        parts.append(read_part(file, start, length, RATE, 2))
        start += length
    joined = torch.cat(parts, dim=1)
    expected = torch.nn.functional.pad(whole, (0, max(0, start - whole.shape[1])))[:, :start]
    torch.testing.assert_close(joined, expected, atol=2e-6, rtol=0)


def test_resampling_keeps_time(tmp_path):
    """A tone read at another rate is the tone that scipy makes at that rate, in phase."""
    time = np.arange(4 * 44100) / 44100
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 44100, subtype="FLOAT")
    start = 16_001
    part = read_part(examine(tmp_path / "tone.wav"), start, 4000, 16_000, 1)[0].numpy()
    np.testing.assert_allclose(part, 0.5 * np.sin(2 * np.pi * 440 * (start + np.arange(4000)) / 16_000), atol=1e-3)
    reference = signal.resample_poly(0.5 * np.sin(2 * np.pi * 440 * time), 160, 441)[start : start + 4000]
    np.testing.assert_allclose(part, reference, atol=2e-3)


def test_channels(folder):
    mono, stereo = examine(folder / "mono.flac"), examine(folder / "8000.wav")
    repeated = read_part(mono, 0, 100, RATE, 2)
    assert torch.equal(repeated[0], repeated[1])
    assert torch.equal(read_part(stereo, 0, 100, RATE, 1)[0], read_part(stereo, 0, 100, RATE, 2).mean(dim=0))
    assert read_part(examine(folder / "quad.wav"), 0, 100, RATE, 4).shape == (4, 100)
    with pytest.raises(DataError, match=r"quad.wav: expected 1 or 2 channels, found 4"):
        read_part(examine(folder / "quad.wav"), 0, 100, RATE, 2)


def test_zeros_follow_the_end(folder):
    file = examine(folder / "8000.wav")
    part = read_part(file, FRAMES - 10, 30, RATE, 2)
    assert part[:, :10].abs().min() > 0
    assert not part[:, 10:].any()
    assert not read_part(file, FRAMES + 5, 30, RATE, 2).any()
    assert not read_part(examine(folder / "11025.wav"), FRAMES, 30, RATE, 2).any()


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_truncated_files_are_found(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (30_000, 2)), 44100)
    whole = path.read_bytes()
    examine(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.(wav|flac): (ends after|expected readable audio)"):
        examine(path)


def test_a_wav_file_of_unknown_length_is_whole(tmp_path):
    """As programs write it into a pipe."""
    path = tmp_path / "piped.wav"
    soundfile.write(path, np.zeros((1000, 2)), RATE)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert examine(path).frames == 1000


def test_bad_files(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.0]), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    for name, message in {
        "nan": "found NaN or infinity",
        "empty": "found no samples",
        "text": "expected readable audio",
        "absent": "expected readable audio",
    }.items():
        with pytest.raises(DataError, match=rf"{name}\.wav: .*{message}"):
            examine(tmp_path / f"{name}.wav")


def test_a_file_that_changes_is_noticed(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((2000, 2)), RATE)
    file = examine(path)
    soundfile.write(path, np.zeros((1000, 2)), RATE)
    with pytest.raises(DataError, match="it has changed or is truncated"):
        read_part(file, 0, 500, RATE, 2)
    path.unlink()
    with pytest.raises(DataError, match="prepare the data again"):
        read_part(file, 0, 500, RATE, 2)
