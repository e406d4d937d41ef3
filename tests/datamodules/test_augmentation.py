import numpy as np
import pytest
import torch
from scipy import signal

from sonido_bench.audio import resample
from sonido_bench.datamodules.augmentation import Augmentation, AugmentationConfig, resampling_ratio
from sonido_bench.datamodules.rendering.effects import Equaliser
from sonido_bench.errors import ConfigError

RATE = 16_000


def sine(hertz, seconds=1.0, rate=RATE):
    return torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate)) / rate)


def decibels(audio):
    return 10 * torch.log10(audio.square().mean()).item()


def peak_hertz(audio, rate=RATE):
    spectrum = np.abs(np.fft.rfft(audio.numpy() * np.hanning(len(audio))))
    return np.argmax(spectrum) * rate / len(audio)


@pytest.mark.parametrize("semitones", [-5, -1, 0, 3, 6])
def test_a_change_of_speed_moves_pitch_and_length_alike(semitones):
    audio = sine(1000.0)
    changed = Augmentation(semitones=semitones).apply(audio, RATE, RATE)
    ratio = 2 ** (semitones / 12)
    assert peak_hertz(changed) == pytest.approx(1000 * ratio, rel=0.003)
    assert len(changed) == pytest.approx(len(audio) / ratio, rel=0.003)


@pytest.mark.parametrize(
    ("rate", "sample_rate"), [(44_100, 22_050), (48_000, 22_050), (16_000, 22_050), (48_000, 44_100), (44_100, 8000)]
)
def test_ratios_are_simple_and_within_four_cents(rate, sample_rate):
    for semitones in range(-12, 13):
        ratio, wanted = resampling_ratio(rate, sample_rate, semitones), rate / sample_rate * 2 ** (semitones / 12)
        assert abs(1200 * np.log2(float(ratio) / wanted)) < 4
        assert ratio.denominator <= (48 if semitones else sample_rate)
    assert resampling_ratio(rate, sample_rate, 0) * sample_rate == rate


def test_resampling_and_a_change_of_speed_are_one_step():
    audio = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    ratio = resampling_ratio(44_100, 22_050, -2)
    expected = resample(audio, ratio.numerator, ratio.denominator)
    assert torch.equal(Augmentation(semitones=-2).apply(audio, 44_100, 22_050), expected)


def test_without_effects_audio_is_only_resampled():
    audio = torch.randn(4410)
    assert torch.equal(Augmentation().apply(audio, 22_050, 22_050), audio)
    assert torch.equal(Augmentation().apply(audio, 44_100, 22_050), resample(audio, 44_100, 22_050))


def test_gain_is_in_decibels():
    audio = sine(440.0)
    assert decibels(Augmentation(gain_db=-7.5).apply(audio, RATE, RATE)) - decibels(audio) == pytest.approx(
        -7.5, abs=0.01
    )


@pytest.mark.parametrize("snr_db", [20.0, 43.0])
def test_noise_has_the_level_that_was_asked_for(snr_db):
    audio = sine(440.0, 2.0)
    noise = Augmentation(snr_db=snr_db, noise_seed=1).apply(audio, RATE, RATE) - audio
    assert decibels(audio) - decibels(noise) == pytest.approx(snr_db, abs=0.2)
    assert not torch.equal(noise, Augmentation(snr_db=snr_db, noise_seed=2).apply(audio, RATE, RATE) - audio)


def test_noise_leaves_silence_silent():
    assert not Augmentation(snr_db=20.0).apply(torch.zeros(100), RATE, RATE).any()


def test_the_low_pass_halves_power_at_its_corner_and_removes_what_lies_above():
    levels = [
        decibels(Augmentation(cutoff_hz=2000.0).apply(sine(hz), RATE, RATE)[RATE // 4 :]) for hz in (200, 2000, 6000)
    ]
    assert levels[0] - levels[1] == pytest.approx(3.0, abs=0.2)
    assert levels[0] - levels[2] > 50
    assert Augmentation(cutoff_hz=9000.0).apply(sine(200), RATE, RATE).equal(sine(200))


def test_the_equaliser_is_that_of_the_renderer():
    equaliser = Equaliser(100.0, 6.0, 1000.0, -6.0, 1.0, 4000.0, 3.0)
    audio = torch.randn(1000)
    expected = signal.sosfilt(equaliser.sections(RATE), audio.double().numpy())
    np.testing.assert_allclose(Augmentation(equaliser=equaliser).apply(audio, RATE, RATE), expected, atol=1e-4)


def test_a_low_sample_rate_leaves_the_equaliser_stable():
    equaliser = Equaliser(100.0, 6.0, 3000.0, 9.0, 1.0, 7000.0, 9.0)
    assert Augmentation(equaliser=equaliser).apply(torch.ones(20_000), 8000, 8000).abs().max() < 10


def test_draws_follow_the_seed_and_the_probabilities():
    config = AugmentationConfig(speed_probability=0.25, lowpass_probability=0.0, gain_probability=1.0)
    draws = [config.draw(np.random.default_rng(seed)) for seed in range(400)]
    assert draws == [config.draw(np.random.default_rng(seed)) for seed in range(400)]
    moved = [draw.semitones for draw in draws if draw.semitones]
    assert 60 < len(moved) < 130
    assert {-5, 6} <= set(moved) <= set(range(-5, 7))
    assert all(draw.cutoff_hz is None for draw in draws)
    assert all(-12 <= draw.gain_db <= 3 for draw in draws)
    assert 150 < sum(draw.snr_db is not None for draw in draws) < 250


def test_a_probability_changes_no_other_draw():
    with_noise, without = (
        AugmentationConfig(noise_probability=share).draw(np.random.default_rng(5)) for share in (1.0, 0.0)
    )
    assert with_noise.snr_db is not None
    assert without.snr_db is None
    assert (with_noise.gain_db, with_noise.semitones) == (without.gain_db, without.semitones)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain_db": (3.0, -3.0)}, "gain_db must be a range"),
        ({"noise_probability": 1.5}, "noise_probability must lie in"),
        ({"cutoff_hz": (0.0, 100.0)}, "cutoff_hz must be above 0"),
        ({"semitones": (-30, 0)}, "semitones within 24"),
    ],
)
def test_wrong_ranges(options, message):
    with pytest.raises(ConfigError, match=message):
        AugmentationConfig(**options)
