import numpy as np
import pytest
import soundfile
import torch

from sonido_bench.audio import resample
from sonido_bench.errors import DataError
from sonido_bench.launch import audio_stream
from sonido_bench.launch.audio_stream import (
    AudioFormat,
    even_blocks,
    read_blocks,
    resample_stream,
    wav_writers,
    with_channels,
)


def noise(samples, channels=2, seed=0):
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed)) * 0.2


@pytest.mark.parametrize(
    "rates", [(44_100, 48_000), (48_000, 44_100), (8_000, 44_100), (96_000, 44_100), (44_100, 16_000)]
)
@pytest.mark.parametrize("sizes", [(1,), (20_000,), (5_000, 1, 7, 3_333, 9_000), (1_000,) * 17])
def test_resampled_blocks_are_the_resampled_whole(rates, sizes):
    audio = noise(sum(sizes))
    blocks = list(resample_stream(audio.split(list(sizes), dim=1), *rates))
    torch.testing.assert_close(torch.cat(blocks, dim=1), resample(audio, *rates), atol=1e-6, rtol=0)


def test_resampling_holds_little():
    sizes = [each.shape[1] for each in resample_stream(iter(noise(200_000).split(10_000, dim=1)), 48_000, 44_100)]
    assert max(sizes) < 11_000
    assert len(sizes) >= 19


@pytest.mark.parametrize("samples", [5, 10, 12, 20, 23, 31])
def test_even_blocks_cut_a_stream_anew(samples):
    audio = noise(23)
    blocks = list(even_blocks(audio.split([7, 1, 15], dim=1), 10, samples))
    assert [block.shape[1] for block in blocks[:-1]] == [10] * (len(blocks) - 1)
    joined = torch.cat(blocks, dim=1)
    assert torch.equal(joined, torch.nn.functional.pad(audio, (0, 8))[:, :samples])


def test_channels():
    audio = noise(4)
    assert with_channels(audio, 2) is audio
    assert torch.equal(with_channels(audio[:1], 2), audio[:1].repeat(2, 1))
    assert torch.equal(with_channels(audio, 1), audio.mean(0, keepdim=True))
    with pytest.raises(DataError, match="1 or 2 channels, found 6"):
        with_channels(noise(4, 6), 2)


@pytest.mark.parametrize(
    ("suffix", "subtype", "expected"),
    [
        *((".wav", subtype, subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
        (".flac", "PCM_S8", "PCM_U8"),
        (".flac", "PCM_24", "PCM_24"),
        (".ogg", "VORBIS", "PCM_16"),
        (".mp3", "MPEG_LAYER_III", "PCM_16"),
    ],
)
def test_a_file_is_read_in_blocks_and_written_in_its_format(tmp_path, monkeypatch, suffix, subtype, expected):
    path = tmp_path / f"song{suffix}"
    soundfile.write(path, noise(30_000).T.numpy(), 44_100, subtype=subtype)
    monkeypatch.setattr(audio_stream, "_BLOCK", 7_000)
    whole = torch.from_numpy(soundfile.read(path, dtype="float32")[0].T.copy())
    blocks = list(read_blocks(path, 44_100, 2))
    assert len(blocks) >= 5
    assert torch.equal(torch.cat(blocks, dim=1), whole)
    format = AudioFormat.of(path)
    assert format == AudioFormat(44_100, 2, expected)
    with wav_writers({"a": tmp_path / "new" / "a.wav", "b": tmp_path / "b.wav"}, format, whole.shape[1] - 5) as writers:
        for block in blocks:
            writers.write({"a": block, "b": -block})
        assert not (tmp_path / "b.wav").exists()
    info = soundfile.info(tmp_path / "new" / "a.wav")
    assert (info.format, info.subtype, info.samplerate, info.frames) == ("WAV", expected, 44_100, whole.shape[1] - 5)
    written = soundfile.read(tmp_path / "new" / "a.wav", dtype="float32")[0].T
    np.testing.assert_allclose(written, whole[:, :-5], atol={"PCM_U8": 0.008, "PCM_16": 4e-5}.get(expected, 1e-6))


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path):
    with (
        pytest.raises(RuntimeError, match="stop"),
        wav_writers({"a": tmp_path / "a.wav"}, AudioFormat(8000, 1, "FLOAT"), 9),
    ):
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())


def test_full_scale_clips_instead_of_wrapping(tmp_path):
    with wav_writers({"a": tmp_path / "a.wav"}, AudioFormat(8000, 1, "PCM_16"), 2) as writers:
        writers.write({"a": torch.tensor([[1.5, -3.0]])})
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [32767, -32768]


def test_a_file_beyond_4_gb_gets_a_header_that_holds_its_length(tmp_path):
    with wav_writers({"a": tmp_path / "a.wav"}, AudioFormat(96_000, 8, "DOUBLE"), 2**27) as writers:
        writers.write({"a": torch.zeros(8, 10)})
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"


def test_the_finest_format_of_several():
    formats = [AudioFormat(44_100, 1, "PCM_24"), AudioFormat(96_000, 2, "PCM_16")]
    assert AudioFormat.finest(formats, 2) == AudioFormat(96_000, 2, "PCM_24")


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "nan.wav", np.full((100, 2), np.nan), 8000, subtype="FLOAT")
    for path, match in ((tmp_path / "text.wav", "readable audio"), (tmp_path / "nan.wav", "found NaN or infinity")):
        with pytest.raises(DataError, match=match):
            list(read_blocks(path, 8000, 2))
    with pytest.raises(DataError, match="readable audio"):
        AudioFormat.of(tmp_path / "none.wav")
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match="choose another --output"),
        wav_writers({"a": tmp_path / "file" / "a.wav"}, AudioFormat(8000, 1, "FLOAT"), 9),
    ):
        pass
