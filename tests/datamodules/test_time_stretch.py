import numpy as np
import pytest
import torch

from sonido_bench.datamodules.time_stretch import change_tempo, repitch

RATE = 16_000


def tone(frequency, seconds=2.0):
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.5 * torch.sin(2 * torch.pi * frequency * time).expand(2, -1).contiguous()


def pitch(audio):
    """Frequency of the strongest partial, refined by a parabola through the log spectrum."""
    middle = audio[0, len(audio[0]) // 4 : 3 * len(audio[0]) // 4].numpy()
    spectrum = np.log(np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2**17)) + 1e-12)
    return np.argmax(spectrum) * RATE / 2**17


def test_an_unchanged_tempo_changes_nothing():
    noise = torch.randn(2, 30_001, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(change_tempo(noise, 1.0, RATE), noise, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tempo", [0.88, 0.95, 1.05, 1.12])
def test_tempo_changes_the_length_and_not_the_pitch(tempo):
    changed = change_tempo(tone(440), tempo, RATE)
    assert changed.shape == (2, round(2 * RATE / tempo))
    assert changed.dtype == torch.float32
    assert pitch(changed) == pytest.approx(440, rel=2e-3)
    middle = changed[:, 4000:-4000]
    assert middle.square().mean().sqrt() == pytest.approx(0.5 / 2**0.5, rel=0.03)


def test_events_move_with_the_tempo():
    clicks = torch.zeros(1, 3 * RATE)
    places = [8_000, 16_000, 24_000, 32_000]
    for place in places:
        clicks[0, place : place + 40] = torch.randn(40, generator=torch.Generator().manual_seed(place))
    changed = change_tempo(clicks, 1.1, RATE)[0].abs()
    for place in places:
        around = round(place / 1.1)
        loudest = around - 800 + int(changed[around - 800 : around + 800].argmax())
        assert abs(loudest - around) < 0.025 * RATE


@pytest.mark.parametrize("semitones", [-2, -1, 1, 2])
def test_pitch_changes_and_the_length_does_not(semitones):
    changed = repitch(tone(440), semitones, 1.0, RATE)
    assert changed.shape[1] == pytest.approx(2 * RATE, abs=2)
    assert 1200 * np.log2(pitch(changed) / (440 * 2 ** (semitones / 12))) == pytest.approx(0, abs=8)


def test_channels_stay_together():
    noise = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(1)).expand(2, -1).contiguous()
    changed = repitch(noise, 1, 1.07, RATE)
    assert torch.equal(changed[0], changed[1])


@pytest.mark.parametrize("samples", [1, 100, 5000])
def test_silence_and_scraps(samples):
    assert not repitch(torch.zeros(2, samples), 2, 1.1, RATE).any()
    changed = change_tempo(torch.ones(1, samples), 0.9, RATE)
    assert changed.shape == (1, round(samples / 0.9))
    assert torch.isfinite(changed).all()


def test_wrong_tempo():
    with pytest.raises(ValueError, match="above 0"):
        change_tempo(torch.zeros(1, 10), 0.0, RATE)
