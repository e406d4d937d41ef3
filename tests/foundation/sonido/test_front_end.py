import numpy as np
import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.sonido.config import FrontEndConfig, LevelConfig, StageOneConfig
from sonido_bench.foundation.sonido.front_end import LogFrequencyFrontEnd, WaveformFrontEnd, build_front_end

RATE, HOP = 22_050, 256


def sine(frequency, frames=64, amplitude=1.0):
    samples = torch.arange(frames * HOP, dtype=torch.float64) / RATE
    return (amplitude * torch.sin(2 * torch.pi * frequency * samples)).float().unsqueeze(0)


def direct_power(audio, centre_sample, frequency, seconds):
    """Power of one Hann-windowed frame at one frequency, by the definition, full-scale sine = 1."""
    size = round(seconds * RATE)
    window = np.hanning(size + 1)[:-1]
    index = centre_sample - size // 2 + np.arange(size)
    inside = (index >= 0) & (index < audio.shape[1])
    frame = np.where(inside, audio[0].numpy()[np.clip(index, 0, audio.shape[1] - 1)], 0.0)
    phases = np.exp(-2j * np.pi * frequency * np.arange(size) / RATE)
    return (2 * abs((frame * window * phases).sum()) / window.sum()) ** 2


@pytest.mark.parametrize("octave", range(1, 8))
def test_a_full_scale_sine_peaks_in_its_own_bin_at_zero_decibels(octave):
    front_end = LogFrequencyFrontEnd(RATE, HOP)
    log_power = front_end.log_power(sine(27.5 * 2 ** (octave + 5 / 24)))[0, :, 32]
    assert abs(int(log_power.argmax()) - (24 * octave + 5)) <= (1 if octave < 2 else 0)
    assert abs(float(log_power.max()) * 10 / np.log(10)) < 2.0


@pytest.mark.parametrize("frequency", [110.0, 220.0, 880.0, 3520.0])
def test_semitones_are_told_apart(frequency):
    front_end = LogFrequencyFrontEnd(RATE, HOP)
    log_power = front_end.log_power(sine(frequency, 64, 0.4) + sine(frequency * 2 ** (1 / 12), 64, 0.4))[0, :, 32]
    first = round(24 * np.log2(frequency / 27.5))
    assert log_power[first] > log_power[first + 1] + (1.0 if frequency > 150 else -1.0)
    assert log_power[first + 2] > log_power[first + 1] + (1.0 if frequency > 150 else -1.0)


def test_a_frame_is_centred_in_the_middle_of_its_hop():
    front_end = LogFrequencyFrontEnd(RATE, HOP)
    click = torch.zeros(1, 32 * HOP)
    click[0, 20 * HOP + HOP // 2] = 1.0  # the middle of frame 20
    energy = front_end.log_power(click)[0].mean(dim=0)
    assert int(energy.argmax()) == 20
    torch.testing.assert_close(energy[10:20], energy[21:31].flip(0), atol=0.02, rtol=0)


def test_power_is_that_of_the_definition():
    front_end = LogFrequencyFrontEnd(RATE, HOP)
    audio = 0.1 * torch.randn(1, 64 * HOP, generator=torch.Generator().manual_seed(0))
    audio = audio + sine(440.0, 64, 0.5) + sine(3520.0, 64, 0.3)
    log_power = front_end.log_power(audio)[0]
    for frequency, seconds in ((440.0, 4096 / RATE), (3520.0, 2048 / RATE)):
        bin_index = round(24 * np.log2(frequency / 27.5))
        expected = direct_power(audio, 30 * HOP + HOP // 2, frequency, seconds)
        # a bin sums a few neighbouring Fourier frequencies, and the sine's lobe with them
        assert float(log_power[bin_index, 30]) == pytest.approx(np.log(expected), abs=0.8)


def test_silence_is_the_floor_and_loudness_shifts_the_logarithm():
    front_end = LogFrequencyFrontEnd(RATE, HOP)
    silence = front_end.log_power(torch.zeros(1, 8 * HOP))
    torch.testing.assert_close(silence, torch.full_like(silence, -7 * np.log(10)))
    loud, soft = (front_end.log_power(sine(880.0, 64, amplitude))[0, 120, 32] for amplitude in (1.0, 0.1))
    assert float(loud - soft) == pytest.approx(2 * np.log(10), abs=0.01)


def test_fitting_standardises_every_bin_and_is_undone():
    front_end = LogFrequencyFrontEnd(RATE, HOP)
    batches = [torch.randn(2, 32 * HOP) * level for level in (0.01, 0.1, 0.5)]
    front_end.fit(batches)
    frames = torch.cat([front_end(batch) for batch in batches]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(frames.mean(dim=1), torch.zeros(192), atol=1e-3, rtol=0)
    torch.testing.assert_close(frames.std(dim=1, correction=0), torch.ones(192), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        front_end.in_nats(front_end(batches[1])), front_end.log_power(batches[1]), atol=1e-3, rtol=1e-4
    )


def test_bins_that_are_always_silent_do_not_blow_up():
    front_end = LogFrequencyFrontEnd(RATE, HOP)
    front_end.fit([torch.zeros(1, 8 * HOP)])
    assert front_end(torch.randn(1, 8 * HOP)).abs().max() < 1000


def test_only_the_statistics_are_weights():
    assert sorted(LogFrequencyFrontEnd(RATE, HOP).state_dict()) == ["mean", "std"]


def test_a_frame_sees_no_farther_than_its_reach():
    front_end = LogFrequencyFrontEnd(RATE, HOP)
    audio = torch.randn(1, 96 * HOP)
    changed = audio.clone()
    changed[0, : 48 * HOP - front_end.reach] = 0.3
    changed[0, 49 * HOP + front_end.reach :] = -0.3
    torch.testing.assert_close(front_end(changed)[..., 48], front_end(audio)[..., 48], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((8000, 256), "end below half the sample rate"), ((22_050, 255), "an even hop")],
)
def test_bins_beyond_the_band_and_odd_hops_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LogFrequencyFrontEnd(*arguments)


@pytest.mark.parametrize("shape", [(HOP,), (1, 0), (1, HOP + 1)])
def test_audio_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="a multiple of 256"):
        LogFrequencyFrontEnd(RATE, HOP).log_power(torch.zeros(shape))


def test_the_waveform_is_itself():
    front_end = build_front_end(StageOneConfig((LevelConfig("top", 8),)))
    audio = torch.randn(2, 64)
    front_end.fit([audio])
    assert isinstance(front_end, WaveformFrontEnd)
    assert torch.equal(front_end(audio), audio.unsqueeze(1))


def test_a_waveform_has_no_bands():
    with pytest.raises(ConfigError, match="hop 1 and 1 band, got 256, 8"):
        build_front_end(StageOneConfig((LevelConfig("top", 8),), front_end=FrontEndConfig(hop_length=256), bands=8))
