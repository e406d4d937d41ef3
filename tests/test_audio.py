import math
import resource
import subprocess
import sys

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from sonido_bench.audio import log_mel, mel_filterbank, power_spectrum, read_clip, resample, to_mono, write_audio
from sonido_bench.clips import Clip
from sonido_bench.errors import ConfigError, DataError


def clip_of(path, start=0.0, seconds=1.0):
    return Clip(path.stem, path, "0" * 64, start, seconds)


@pytest.fixture
def stereo():
    phase = 2 * math.pi * torch.tensor([[440.0], [330.0]]) * torch.arange(44100) / 22050
    return 0.5 * torch.sin(phase)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".wav", 4e-5), (".flac", 4e-5), (".ogg", 0.05)])
def test_written_audio_is_read_back(tmp_path, stereo, suffix, tolerance):
    path = tmp_path / f"a{suffix}"
    write_audio(path, stereo, 22050)
    read = read_clip(clip_of(path, seconds=2.0), 22050)
    assert read.shape == (2, 44100)
    assert read.dtype == torch.float32
    assert (read - stereo).abs().max() < tolerance


def test_part_of_a_file_equals_the_part_of_the_whole(tmp_path, stereo):
    path = tmp_path / "a.flac"
    write_audio(path, stereo, 22050)
    whole = read_clip(clip_of(path, seconds=2.0), 22050)
    assert torch.equal(read_clip(clip_of(path, 0.5, 0.25), 22050), whole[:, 11025 : 11025 + round(0.25 * 22050)])


def test_minutes_of_stereo_vorbis_do_not_crash(tmp_path):
    path = tmp_path / "long.ogg"
    # Smaller stack than usual, so that a short file shows what takes minutes at 8 MB.
    program = (
        "import sys, torch; from pathlib import Path; from sonido_bench.audio import write_audio;"
        "write_audio(Path(sys.argv[1]), torch.zeros(2, 44100 * 12), 44100)"
    )
    small_stack = 1 << 20
    subprocess.run(
        [sys.executable, "-c", program, str(path)],
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (small_stack, small_stack)),
    )
    assert soundfile.info(path).frames == 44100 * 12


@pytest.mark.parametrize(("rate", "new_rate"), [(44100, 22050), (48000, 22050), (16000, 22050)])
def test_resampled_sine_keeps_its_frequency_and_length(tmp_path, rate, new_rate):
    path = tmp_path / "a.wav"
    times = torch.arange(2 * rate) / rate
    write_audio(path, 0.5 * torch.sin(2 * math.pi * 1000 * times)[None], rate)
    read = read_clip(clip_of(path, 0.3, 1.2345), new_rate)
    assert read.shape == (1, round(1.2345 * new_rate))
    expected = 0.5 * np.sin(2 * np.pi * 1000 * (0.3 + np.arange(read.shape[1]) / new_rate))
    assert np.abs(read[0].numpy() - expected)[200:-200].max() < 2e-3


def test_resampling_removes_what_would_alias():
    times = torch.arange(44100) / 44100
    assert resample(torch.sin(2 * math.pi * 18000 * times), 44100, 22050)[500:-500].abs().max() < 1e-2


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_truncated_file_names_file_and_lengths(tmp_path, stereo, suffix):
    path = tmp_path / f"cut{suffix}"
    write_audio(path, stereo, 22050)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut\.(wav|flac): expected"):
        read_clip(clip_of(path, seconds=2.0), 22050)


def test_clip_beyond_the_end_is_refused(tmp_path, stereo):
    path = tmp_path / "a.wav"
    write_audio(path, stereo, 22050)
    with pytest.raises(DataError, match=r"expected 1 s from 1.5 s, found 0.5 s"):
        read_clip(clip_of(path, 1.5, 1.0), 22050)
    with pytest.raises(DataError, match="found 0 s"):
        read_clip(clip_of(path, 9.0, 1.0), 22050)


def test_one_sample_of_rounding_is_padded(tmp_path, stereo):
    path = tmp_path / "a.wav"
    write_audio(path, stereo, 22050)
    read = read_clip(clip_of(path, 0.0, 44101 / 22050), 22050)
    assert read.shape == (2, 44101)
    assert (read[:, -1] == 0).all()


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.wav"):
        read_clip(clip_of(tmp_path / "none.wav"), 22050)
    path = tmp_path / "text.wav"
    path.write_text("not audio")
    with pytest.raises(DataError, match=r"text.wav: expected readable audio"):
        read_clip(clip_of(path), 22050)


def test_audio_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / "nan.wav"
    samples = np.zeros(22050, dtype=np.float32)
    samples[100] = np.nan
    soundfile.write(path, samples, 22050, subtype="FLOAT")
    with pytest.raises(DataError, match=r"nan.wav: expected finite"):
        read_clip(clip_of(path), 22050)
    with pytest.raises(DataError, match="finite"):
        write_audio(tmp_path / "b.wav", torch.full((1, 10), torch.inf), 22050)
    with pytest.raises(DataError, match=r"b\.xyz: expected a writable"):
        write_audio(tmp_path / "b.xyz", torch.zeros(1, 10), 22050)


def test_to_mono_averages_channels(stereo):
    assert torch.allclose(to_mono(stereo), (stereo[0] + stereo[1]) / 2)


def test_power_spectrum_agrees_with_scipy():
    audio = torch.rand(1, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    window = torch.hann_window(512)
    found = power_spectrum(audio, window, 128)[0]
    stft = scipy.signal.ShortTimeFFT(window.numpy().astype(float), 128, fs=1, scale_to=None, phase_shift=None)
    expected = np.abs(stft.stft(audio[0].numpy().astype(float), p0=0, p1=63)).T ** 2 * (2 / window.sum().item()) ** 2
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() < 1e-6


def test_log_mel_runs_from_silence_to_full_scale():
    rate, n_fft = 22050, 2048
    window = torch.hann_window(n_fft)
    filterbank = mel_filterbank(rate, n_fft, 128, 27.5)
    sine = torch.sin(2 * math.pi * 1000 * torch.arange(rate) / rate)[None]
    for audio, expected in ((torch.zeros_like(sine), -1.0), (sine, 1.0), (0.01 * sine, 0.0)):
        level = log_mel(power_spectrum(audio, window, 512), filterbank)[:, 4:-4].amax(dim=-1)
        assert (level - expected).abs().max() < 0.06


def test_mel_bands_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="too many"):
        mel_filterbank(22050, 256, 128, 27.5)
    with pytest.raises(ConfigError, match="f_min"):
        mel_filterbank(22050, 2048, 64, 100.0, 20000.0)
