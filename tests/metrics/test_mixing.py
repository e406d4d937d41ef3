"""Against the formulas, written a second time: one frame after the other, and scipy's short-time Fourier transform."""

import numpy as np
import pyloudnorm
import pytest
from scipy import signal
from sklearn.metrics import mean_absolute_percentage_error

from sonido_bench.metrics.mixing import (
    MIXING_DETAILS,
    MIXING_METRICS,
    dynamic_errors,
    loudness_errors,
    mixing_scores,
    panning_errors,
    spectral_errors,
)

RATE = 44_100


def music(seed, seconds=1.4, rate=RATE, pan=0.6):
    """Two decaying notes of several partials, panned apart, and noise that comes and goes."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    mix = 0.02 * generator.normal(size=(2, len(time))) * (0.6 + 0.4 * np.sin(9 * time))
    for pitch, left in ((220 * 1.5 ** generator.random(), pan), (520 * 1.5 ** generator.random(), 1 - pan)):
        note = sum(np.sin(2 * np.pi * pitch * k * time + k) / k**1.5 for k in range(1, 12))
        mix += 0.2 * np.array([[left], [1 - left]]) * note * np.exp(-2 * ((time + generator.random() / 3) % 0.7))
    return mix


def remix(seed, audio, **options):
    return 0.8 * audio + 0.3 * music(seed, audio.shape[1] / RATE, **options)[:, : audio.shape[1]]


def normalised(audio):
    return audio / np.abs(audio).max() * 10 ** (-1 / 20)


def magnitudes(channel, size):
    """``(frames, bins)``"""
    window = np.sqrt(signal.windows.hann(size, sym=False))
    *_, spectrum = signal.stft(
        channel, window=window, nperseg=size, noverlap=size - 1024, boundary=None, padded=False, return_onesided=True
    )
    return np.abs(spectrum).T * window.sum()


def smooth(values):
    return np.convolve(values, np.full(40, 1 / 40), mode="valid")


def mape(wanted, found):
    return mean_absolute_percentage_error(smooth(wanted), smooth(found))


def contrast_rows(spectra):
    """Peak over valley in dB, ``(5, frames)``; limited to 80 dB below the largest of the channel."""
    frequencies = np.arange(2049) * RATE / 4096
    valleys, peaks = np.zeros((2, 5, len(spectra)))
    for row, low in enumerate((0, 250, 500, 1000, 2000)):
        chosen = [i for i, f in enumerate(frequencies) if low <= f <= max(250, 2 * low)]
        if row:
            chosen.insert(0, chosen[0] - 1)
        if row == 4:
            chosen = list(range(chosen[0], 2049))
        count = max(1, round(0.02 * len(chosen)))
        for frame, spectrum in enumerate(spectra):
            ordered = sorted(spectrum[chosen if row == 4 else chosen[:-1]])
            valleys[row, frame], peaks[row, frame] = np.mean(ordered[:count]), np.mean(ordered[-count:])
    peaks, valleys = (10 * np.log10(np.maximum(rows, 1e-10)) for rows in (peaks, valleys))
    return np.maximum(peaks, peaks.max() - 80) - np.maximum(valleys, valleys.max() - 80)


def spectral_reference(channel):
    frequencies = np.arange(2049) * RATE / 4096
    spectra = magnitudes(channel, 4096)
    rows = {"centroid": [], "bandwidth": [], "rolloff": [], "flatness": []}
    for spectrum in spectra:
        centroid = np.average(frequencies, weights=spectrum)
        rows["centroid"].append(1 + centroid)
        rows["bandwidth"].append(1 + np.average((frequencies - centroid) ** 2, weights=spectrum) ** 0.5)
        below = next(i for i in range(2049) if spectrum[: i + 1].sum() >= 0.85 * spectrum.sum())
        rows["rolloff"].append(1 + frequencies[below])
        power = np.maximum(spectrum**2, 1e-10)
        rows["flatness"].append(1 - 20 * np.log10(np.exp(np.mean(np.log(power))) / np.mean(power)))
    contrast = contrast_rows(spectra)
    return {**rows, "low": contrast[0], "mid": contrast[1:4].mean(axis=0), "high": contrast[4]}


@pytest.mark.parametrize("seed", range(2))
def test_spectral_errors(seed):
    wanted = music(seed)
    found = remix(seed + 10, wanted, pan=0.3)
    errors = spectral_errors(wanted, found, RATE)
    expected = []
    for pair in zip(normalised(wanted), normalised(found), strict=True):
        references, estimates = (spectral_reference(channel) for channel in pair)
        expected.append({name: mape(references[name], estimates[name]) for name in references})
    channels = {name: np.mean([channel[name] for channel in expected]) for name in expected[0]}
    contrast = np.mean([channels.pop(band) for band in ("low", "mid", "high")])
    channels["contrast"] = contrast
    for name, value in channels.items():
        assert errors[f"spectral_{name}"] == pytest.approx(value, rel=1e-9)
        assert value > 1e-3
    assert errors["spectral_mape"] == pytest.approx(np.mean([*channels.values()]), rel=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_panning_errors(seed):
    wanted = music(seed)
    wanted[1, 10_000:16_000] = wanted[0, 10_000:16_000]  # some frames are mono: left out
    found = remix(seed + 10, wanted, pan=0.3)
    strengths = []
    for audio in (wanted, found):
        left, right = (magnitudes(channel, 2048) for channel in normalised(audio))
        similarity = 2 * left * right / (left**2 + right**2)
        strengths.append((1 - similarity) * np.sign(left - right))
    errors = panning_errors(wanted, found, RATE)
    bands = {"total": (0, 22_050), "low": (0, 250), "mid": (250, 2500), "high": (2500, 22_050)}
    keep = np.abs(strengths[0]).max(axis=1) > 1e-9
    assert 0 < (~keep).sum() < 10
    values = []
    for name, edges in bands.items():
        start, stop = (int(edge * 2048 / RATE) for edge in edges)
        rms = [np.sqrt(np.mean(strength[keep, start:stop] ** 2, axis=1)) for strength in strengths]
        values.append(mape(*rms))
        assert errors[f"panning_{name}"] == pytest.approx(values[-1], rel=1e-6)
    assert errors["panning_mape"] == pytest.approx(np.mean(values), rel=1e-6)


def dynamic_reference(audio):
    rows = {"rms": [], "spread": [], "crest": []}
    for start in range(0, audio.shape[1] - 4095, 1024):
        levels = []
        for frame in audio[:, start : start + 4096]:
            rms = 10 * np.log10(np.mean(frame**2))
            spread = np.mean(20 * np.log10(np.abs(frame) + 1e-30) - rms)
            levels.append((1 - rms, 1 - spread, 20 * np.log10(np.max(np.abs(frame))) / rms))
        for row, level in zip(rows.values(), np.mean(levels, axis=0), strict=True):
            row.append(level)
    return rows


@pytest.mark.parametrize("seed", range(2))
def test_dynamic_errors(seed):
    wanted = music(seed)
    wanted[:, 20_000:20_500] = 0
    found = np.tanh(3 * remix(seed + 10, wanted))
    references, estimates = (dynamic_reference(normalised(audio)) for audio in (wanted, found))
    errors = dynamic_errors(wanted, found, RATE)
    expected = {name: mape(references[name], estimates[name]) for name in references}
    for name, value in expected.items():
        assert errors[f"dynamic_{name}"] == pytest.approx(value, rel=1e-9)
    assert errors["dynamic_mape"] == pytest.approx(np.mean([*expected.values()]), rel=1e-9)


def test_loudness_errors():
    wanted, found = music(0), remix(1, music(0))
    meter = pyloudnorm.Meter(RATE)
    loudness = [meter.integrated_loudness(audio.T) for audio in (wanted, found)]
    peak = [20 * np.log10(np.abs(audio).max()) for audio in (wanted, found)]
    errors = loudness_errors(wanted, found, RATE)
    assert errors["loudness_lufs"] == pytest.approx(mean_absolute_percentage_error(loudness[:1], loudness[1:]))
    assert errors["loudness_peak"] == pytest.approx(mean_absolute_percentage_error(peak[:1], peak[1:]))
    assert errors["loudness_mape"] == pytest.approx((errors["loudness_lufs"] + errors["loudness_peak"]) / 2)
    assert errors["loudness_lufs_db"] == pytest.approx(abs(loudness[1] - loudness[0]))
    assert errors["loudness_peak_db"] == pytest.approx(abs(peak[1] - peak[0]))


def test_a_target_at_full_scale_does_not_divide_by_zero():
    wanted = music(0) / np.abs(music(0)).max()
    errors = loudness_errors(wanted, 0.5 * wanted, RATE)
    assert errors["loudness_peak"] == pytest.approx(errors["loudness_peak_db"]) == pytest.approx(20 * np.log10(2))


def test_the_same_mix_has_no_error():
    scores = mixing_scores(music(0), music(0), RATE)
    assert [*scores] == [*MIXING_METRICS, *MIXING_DETAILS]
    assert set(scores.values()) == {0.0}


def test_metrics_that_are_not_wanted_are_not_computed():
    wanted, found = music(0), remix(1, music(0))
    everything = mixing_scores(wanted, found, RATE)
    some = mixing_scores(wanted, found, RATE, ["spectral_mape", "loudness_mape"])
    assert some == {name: everything[name] for name in everything if name.startswith(("spectral", "loudness"))}
    silent = mixing_scores(np.zeros((2, RATE)), found[:, :RATE], RATE, ["dynamic_mape"])
    assert [*silent] == ["dynamic_mape", "dynamic_rms", "dynamic_spread", "dynamic_crest"]
    with pytest.raises(ValueError, match="expected metrics of spectral_mape"):
        mixing_scores(wanted, found, RATE, ["stereo_loss"])


def test_gain_is_heard_in_loudness_alone():
    wanted, found = music(0), remix(1, music(0))
    scores, quieter = (mixing_scores(wanted, gain * found, RATE) for gain in (1, 0.25))
    for name in scores:
        assert quieter[name] == pytest.approx(scores[name], rel=1e-9) or name.startswith("loudness")
    assert mixing_scores(wanted, 0.25 * wanted, RATE)["loudness_lufs_db"] == pytest.approx(20 * np.log10(4), rel=1e-3)


def test_panning_does_not_ask_for_the_side():
    assert panning_errors(music(0), music(0)[::-1], RATE)["panning_mape"] == 0


def test_a_sine_is_where_its_frequency_is():
    """The error of an octave is known: centroid and roll-off double."""
    time = np.arange(RATE) / RATE
    wanted, found = (np.sin(2 * np.pi * k * RATE / 4096 * time) * np.ones((2, 1)) for k in (100, 200))
    errors = spectral_errors(wanted, found, RATE)
    assert errors["spectral_centroid"] == pytest.approx(1, abs=0.1)
    assert errors["spectral_rolloff"] == pytest.approx(1, abs=0.02)


def test_silence_around_the_target_is_trimmed():
    wanted, found = music(0), remix(1, music(0))
    expected = mixing_scores(wanted, found, RATE)
    sounding = np.flatnonzero(np.abs(wanted).max(axis=0) > 1e-3)
    assert sounding[0] < 10
    padding = ((0, 0), (5000, 7000))
    noise = np.pad(found, padding, constant_values=0.3)  # what the system does there does not count
    trimmed = mixing_scores(np.pad(wanted, padding, constant_values=5e-4), noise, RATE)
    for name, value in expected.items():
        assert trimmed[name] == pytest.approx(value, rel=0.02), name


def test_fewer_frames_than_the_average_takes():
    wanted, found = music(0, 0.5), remix(1, music(0, 0.5))
    scores = mixing_scores(wanted, found, RATE)
    assert all(0 < value < 5 for value in scores.values())


@pytest.mark.parametrize("rate", [8000, 22_050, 96_000])
def test_other_sample_rates(rate):
    wanted, found = music(0, 1.2, rate), music(1, 1.2, rate)
    scores = mixing_scores(wanted.astype(np.float32), found.astype(np.float32), rate)
    assert all(0 < value < 10 for value in scores.values())


def test_undefined_targets_are_nan_whatever_the_estimate():
    wanted, found = music(0), music(1)
    for target in (0 * wanted, 5e-4 * normalised(wanted), np.where(np.arange(wanted.shape[1]) < 9000, wanted, 0)):
        scores = mixing_scores(target, found, RATE)
        assert [*scores] == [*MIXING_METRICS, *MIXING_DETAILS]
        assert all(np.isnan(value) for value in scores.values())


def test_a_mono_target_has_no_panning():
    scores = mixing_scores(np.broadcast_to(music(0)[0], music(0).shape), music(1), RATE)
    for name, value in scores.items():
        assert np.isnan(value) == name.startswith("panning"), name


def test_a_centred_band_does_not_explode():
    """A bass in the middle: without a floor of the divisor the error would be above 1e6."""
    wanted = music(0)
    wanted = signal.sosfilt(signal.butter(6, 2000, "highpass", fs=RATE, output="sos"), wanted)
    bass = 0.3 * np.sin(2 * np.pi * 60 * np.arange(wanted.shape[1]) / RATE)
    assert panning_errors(wanted + bass, remix(1, wanted) + bass, RATE)["panning_low"] < 1000


def test_a_silent_estimate_is_bad_but_finite():
    scores = mixing_scores(music(0), 0 * music(0), RATE)
    better = mixing_scores(music(0), remix(1, music(0)), RATE)
    for name, value in scores.items():
        assert np.isfinite(value), name
        assert value > better[name], name


def test_bad_input_is_refused():
    audio = music(0)
    for wrong in (audio[:, :-1], audio[:1], audio[0]):
        with pytest.raises(ValueError, match="expected two stereo mixes"):
            mixing_scores(audio, wrong, RATE)
    with pytest.raises(ValueError, match="expected two stereo mixes"):
        mixing_scores(audio[:1], audio[:1], RATE)
    with pytest.raises(ValueError, match="at least 17640 samples"):
        mixing_scores(audio[:, :17_639], audio[:, :17_639], RATE)
    with pytest.raises(ValueError, match="at least 8000 Hz, got 4000"):
        mixing_scores(audio, audio, 4000)
    with pytest.raises(ValueError, match="finite estimate"):
        mixing_scores(audio, np.where(audio > 0.1, np.nan, audio), RATE)
