import numpy as np
import pyloudnorm
import pytest
from scipy import signal

from sonido_bench.datamodules.rendering.effects import Compressor, Equaliser, Gain, Pan, Reverb, loudness

RATE = 44100
NOISE = (0.1 * np.random.default_rng(0).standard_normal((2, RATE))).astype(np.float32)
FLAT = {
    "low_hz": 150.0,
    "low_db": 0.0,
    "peak_hz": 1000.0,
    "peak_db": 0.0,
    "peak_q": 1.0,
    "high_hz": 6000.0,
    "high_db": 0.0,
}


def response_db(equaliser, frequency):
    _, response = signal.sosfreqz(equaliser.sections(RATE), [frequency], fs=RATE)
    return 20 * np.log10(np.abs(response[0]))


@pytest.mark.parametrize(("band", "frequency"), [("low_db", 5), ("peak_db", 1000), ("high_db", 20000)])
@pytest.mark.parametrize("gain_db", [-6.0, 4.0])
def test_equaliser_bands_have_their_gain(band, frequency, gain_db):
    equaliser = Equaliser(**(FLAT | {band: gain_db}))
    assert response_db(equaliser, frequency) == pytest.approx(gain_db, abs=0.1)
    elsewhere = {"low_db": 18000, "peak_db": 10, "high_db": 20}[band]
    assert response_db(equaliser, elsewhere) == pytest.approx(0, abs=0.1)


def test_shelves_have_half_their_gain_at_the_corner():
    assert response_db(Equaliser(**(FLAT | {"low_db": -6.0})), 150) == pytest.approx(-3, abs=0.05)
    assert response_db(Equaliser(**(FLAT | {"high_db": 4.0})), 6000) == pytest.approx(2, abs=0.05)


def test_equaliser_is_precise_and_flat_at_zero():
    np.testing.assert_allclose(Equaliser(**FLAT).apply(NOISE, RATE), NOISE, atol=1e-5)
    equaliser = Equaliser(**(FLAT | {"low_db": -6.0, "high_db": 4.0, "peak_db": 5.0}))
    exact = signal.sosfilt(equaliser.sections(RATE), NOISE.astype(np.float64))
    np.testing.assert_allclose(equaliser.apply(NOISE, RATE), exact, atol=1e-5)


def test_compressor_law():
    """A steady tone 12 dB over the threshold comes out 12 / ratio dB over it."""
    level = 10 ** (-8 / 20)
    square = np.full((2, RATE), level, np.float32) * np.sign(np.sin(np.arange(RATE) * 0.1 + 0.05)).astype(np.float32)
    squeezed = Compressor(-20.0, 3.0, 0.01, 0.1).apply(square, RATE)
    assert 20 * np.log10(np.abs(squeezed[0, -1])) == pytest.approx(-20 + 12 / 3, abs=0.05)
    assert np.abs(squeezed[0, 0]) == pytest.approx(level, rel=0.15)  # the attack has hardly begun
    assert squeezed.dtype == np.float32


def test_compressor_leaves_soft_audio_alone():
    np.testing.assert_array_equal(Compressor(-6.0, 4.0, 0.01, 0.1).apply(0.1 * NOISE, RATE), 0.1 * NOISE)


def test_pan_keeps_the_power():
    mono = np.repeat(NOISE[:1], 2, axis=0)
    np.testing.assert_allclose(Pan(0.0).apply(mono), mono, rtol=1e-6)
    for position in (-1.0, -0.4, 0.7, 1.0):
        panned = Pan(position).apply(mono)
        assert (panned**2).sum() == pytest.approx((mono**2).sum(), rel=1e-5)
    np.testing.assert_allclose(Pan(1.0).apply(mono)[0], 0, atol=1e-6)


def test_gain():
    np.testing.assert_allclose(Gain(-6.0).apply(NOISE), NOISE * 10 ** (-0.3), rtol=1e-6)


def test_reverb_is_a_seeded_decaying_convolution():
    reverb = Reverb(0.5, 0.01, seed=3)
    response = reverb.impulse_response(RATE)
    assert not response[:, :441].any()
    np.testing.assert_allclose((response**2).sum(axis=1), 1, rtol=1e-5)
    early, late = (np.square(response[:, start : start + 2205]).mean() for start in (441, 441 + RATE // 4))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=1.5)  # half of 60 dB at half of the time
    exact = np.stack([signal.fftconvolve(x.astype(float), h)[:RATE] for x, h in zip(NOISE, response, strict=True)])
    np.testing.assert_allclose(reverb.apply(NOISE, RATE), exact, atol=1e-5)
    assert not np.array_equal(response, Reverb(0.5, 0.01, seed=4).impulse_response(RATE))


def test_loudness():
    assert loudness(NOISE, RATE) == pytest.approx(
        pyloudnorm.Meter(RATE).integrated_loudness(NOISE.T.astype(float)), abs=1e-3
    )
    assert loudness(NOISE[:, :4410], RATE) == pytest.approx(-20, abs=0.2)  # RMS of 0.1
    assert loudness(np.zeros((2, RATE), np.float32), RATE) == -70
    assert loudness(np.zeros((2, 10), np.float32), RATE) == -70
    assert loudness(np.zeros((2, 0), np.float32), RATE) == -70
