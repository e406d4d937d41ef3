import json

import numpy as np
import pyloudnorm
import pytest
from scipy import signal

from sonido_bench.datamodules.effect_normalisation.averages import EffectAverages, StemAverages
from sonido_bench.datamodules.effect_normalisation.compression import match_attacks, measure_attacks
from sonido_bench.datamodules.effect_normalisation.equaliser import GRID, match_spectrum, mean_spectrum
from sonido_bench.datamodules.effect_normalisation.level import limit_peak, peak_db, to_loudness
from sonido_bench.datamodules.effect_normalisation.normaliser import EFFECTS, EffectNormaliser
from sonido_bench.datamodules.effect_normalisation.panning import channel_similarity, match_panning
from sonido_bench.datamodules.effect_normalisation.reverb import draw_pre_reverb, draw_reverb
from sonido_bench.datamodules.effect_normalisation.stems import stem_settings
from sonido_bench.datamodules.rendering.effects import Compressor
from sonido_bench.errors import ConfigError, DataError

RATE = 44_100


def noise(seconds=1.0, position=0.5, cutoff_hz=None, seed=0):
    """Mono noise of RMS 0.1, panned by the linear law: 0 is left, 1 right."""
    mono = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    if cutoff_hz is not None:
        mono = signal.sosfilt(signal.butter(1, cutoff_hz, fs=RATE, output="sos"), mono)
    return (np.array([[1 - position], [position]]) * mono).astype(np.float32)


def hits(levels_db, seconds=0.25):
    """A burst of decaying noise for every level of its peak."""
    length = round(seconds * RATE)
    burst = np.random.default_rng(1).standard_normal(length) * np.exp(-np.arange(length) / 800)
    burst /= np.abs(burst).max()
    mono = np.concatenate([10 ** (level / 20) * burst for level in levels_db])
    return np.stack([mono, mono]).astype(np.float32)


def shares(audio):
    levels = np.sqrt(np.mean(np.square(audio, dtype=np.float64), axis=1))
    return levels / levels.sum()


def position(similarity):
    """Share of the louder channel, found by search."""
    candidates = np.linspace(0.5, 1, 100_001)
    found = 2 * candidates * (1 - candidates) / (candidates**2 + (1 - candidates) ** 2)
    return candidates[np.argmin(np.abs(found - similarity))]


def averages(position=0.7, cutoff_hz=2000, stems=("vocals", "drums")):
    return EffectAverages.measure([{name: noise(1.5, position, cutoff_hz) for name in stems}], RATE)


# Loudness


@pytest.mark.parametrize("lufs", [-35.0, -20.0])
def test_loudness_is_reached(lufs):
    reached = pyloudnorm.Meter(RATE).integrated_loudness(to_loudness(noise(position=0.2), RATE, lufs).T)
    assert reached == pytest.approx(lufs, abs=0.01)


def test_below_a_block_loudness_is_the_level():
    short = to_loudness(noise(0.2), RATE, -30.0)
    assert 10 * np.log10(np.mean(np.square(short))) == pytest.approx(-30, abs=0.01)


def test_peaks_are_limited_to_full_scale_and_no_lower():
    assert np.abs(limit_peak(100 * noise())).max() == pytest.approx(1)
    assert np.array_equal(limit_peak(noise()), noise())
    assert peak_db(np.full((2, 5), -0.1)) == pytest.approx(-20)
    assert peak_db(np.zeros((2, 0))) == -np.inf


# Equaliser


def test_spectrum_comes_near_the_reference():
    """Judged by Welch's estimate, in thirds of an octave from 60 Hz to 14 kHz."""
    reference, audio = noise(3, cutoff_hz=500, seed=1), noise(3, cutoff_hz=6000, seed=2)
    reference, audio = (to_loudness(each, RATE, -30) for each in (reference, audio))
    matched = match_spectrum(audio, mean_spectrum(reference, 151), 151)

    def bands(each):
        frequencies, power = signal.welch(each[0], RATE, nperseg=8192)
        edges = 60 * 2 ** (np.arange(25) / 3)
        return 10 * np.log10([power[(frequencies >= low) & (frequencies < 1.26 * low)].mean() for low in edges])

    before, after = (np.abs(bands(each) - bands(reference)) for each in (audio, matched))
    assert before.max() > 12
    assert after.max() < 3
    assert after.mean() < 0.1 * before.mean()


def test_filter_is_the_published_one_forward_and_backward():
    audio = to_loudness(noise(2, cutoff_hz=5000), RATE, -30)
    reference, own = mean_spectrum(noise(2, cutoff_hz=1000, seed=3), 151), mean_spectrum(audio, 151)
    taps = signal.firwin2(1001, np.linspace(0, 1, GRID), np.sqrt(reference / own))
    expected = signal.filtfilt(taps, 1, audio, axis=1)
    matched = match_spectrum(audio, reference, 151)
    assert np.allclose(matched[:, 4000:-4000], expected[:, 4000:-4000], atol=1e-5)


def test_equaliser_leaves_panorama_and_time_alone():
    audio = noise(position=0.2)
    matched = match_spectrum(audio, mean_spectrum(noise(cutoff_hz=1000), 151), 151)
    assert np.allclose(shares(matched), [0.8, 0.2], atol=1e-6)
    lags = signal.correlate(matched[0], audio[0])
    assert np.argmax(lags) == audio.shape[1] - 1


def test_a_band_without_content_is_not_filled_with_noise():
    sections = signal.butter(12, 2000, fs=RATE, output="sos")
    low = to_loudness(signal.sosfilt(sections, noise(2)) + 1e-5 * noise(2, seed=1), RATE, -30).astype(np.float32)
    matched = match_spectrum(low, mean_spectrum(to_loudness(noise(2), RATE, -30), 401), 401)
    high = signal.butter(12, 16_000, "high", fs=RATE, output="sos")
    before, after = (np.square(signal.sosfilt(high, each)).mean() for each in (low, matched))
    assert 10 * np.log10(after / before) == pytest.approx(30, abs=0.5)


def test_spectrum_of_a_sine_lies_at_its_frequency():
    bins = np.arange(GRID) * RATE / 2 / (GRID - 1)
    sine = np.tile(np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE), (2, 1))
    assert abs(bins[np.argmax(mean_spectrum(sine, 11))] - 1000) < 22


# Panning


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_similarity_of_a_panned_source(share):
    expected = 2 * share * (1 - share) / (share**2 + (1 - share) ** 2)
    assert np.allclose(channel_similarity(noise(position=share)), expected, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("similarity", [0.2, 0.8, 1.0])
def test_a_panned_source_is_found_where_the_reference_says(share, similarity):
    audio = to_loudness(noise(position=share), RATE, -30)
    panned = match_panning(audio, RATE, np.full(1025, similarity), RATE)
    louder = position(0.9 * similarity)
    expected = [louder, 1 - louder] if share < 0.5 else [1 - louder, louder]
    inner = panned[:, 4096:-4096]
    assert np.allclose(shares(inner), expected, atol=2e-3)
    # The linear law keeps the sum of the channels, where both had the same phase.
    assert np.allclose(inner.sum(axis=0), audio[:, 4096:-4096].sum(axis=0), atol=1e-4)


def test_nothing_is_panned_above_the_limit_or_in_quiet_frames():
    audio = noise(position=0.9)
    panned = match_panning(audio, RATE, np.ones(1025), 6000.0)
    high = signal.butter(10, 9000, "high", fs=RATE, output="sos")
    low = signal.butter(10, 4000, fs=RATE, output="sos")
    assert np.allclose(shares(signal.sosfilt(high, panned)), [0.1, 0.9], atol=1e-3)
    assert shares(signal.sosfilt(low, panned))[1] < 0.7
    quiet = np.float32(1e-5) * noise(position=0.9)
    assert np.allclose(match_panning(quiet, RATE, np.ones(1025), RATE), quiet, atol=1e-10)
    assert np.array_equal(channel_similarity(quiet), np.ones(1025))


def test_opposite_instruments_keep_their_energy():
    """A stem with one voice hard left and a softer one hard right: both come to the reference's place."""
    time = np.arange(2 * RATE) / RATE
    left, right = 0.2 * np.sin(2 * np.pi * 440 * time), 0.1 * np.sin(2 * np.pi * 1760 * time)
    panned = match_panning(np.stack([left, right]).astype(np.float32), RATE, np.full(1025, 0.8), RATE)
    inner = panned[:, RATE // 2 : -RATE // 2]
    louder = position(0.72)
    for frequency, amplitude in ((440, 0.2), (1760, 0.1)):
        phasor = np.exp(-2j * np.pi * frequency * np.arange(inner.shape[1]) / RATE)
        levels = 2 * np.abs(inner @ phasor) / inner.shape[1]
        assert np.allclose(levels, [amplitude * louder, amplitude * (1 - louder)], rtol=0.05)


# Compression


def test_attacks_of_bursts_with_known_peaks():
    """Of eight bursts the loudest quarter: two, -10 dB (where the stem's peak is put) and -12 dB."""
    mean, deviation = measure_attacks(hits([-2, -14, -8, -20, -4, -16, -12, -18]), RATE)
    assert mean == pytest.approx(-11, abs=0.1)
    assert deviation == pytest.approx(1, abs=0.1)


def test_a_stem_without_onsets_has_one_attack():
    constant = np.full((2, RATE), 0.3, np.float32)
    assert measure_attacks(constant, RATE) == pytest.approx((-10, 0), abs=1e-5)


def test_compression_takes_the_first_setting_that_suffices():
    audio, settings = hits([-1, -3, -2, -1, -6, -1]), stem_settings("drums")
    at_peak = audio * np.float32(10 ** ((-10 - peak_db(audio)) / 20))
    reference = (-16.0, 0.5)
    onsets = np.arange(6) * round(0.25 * RATE)

    def compressed():
        for ratio in range(6, 21):
            for level in np.arange(-10, -40.5, -0.5):
                louder = Compressor(float(level), ratio, 0.01, 0.18).apply(at_peak, RATE)
                peaks = 20 * np.log10(np.maximum.reduceat(np.abs(louder).max(axis=0), onsets))
                if peaks[peaks >= np.percentile(peaks, 75)].mean() <= sum(reference):
                    return louder
        raise AssertionError

    matched = match_attacks(audio, RATE, reference, settings)
    expected = compressed() * np.float32(10 ** ((peak_db(audio) + 10) / 20))
    assert np.allclose(matched, expected, atol=1e-6)
    assert peak_db(matched) < peak_db(audio) - 3


def test_soft_attacks_stay_as_they_are():
    audio = hits([-6, -12, -9])
    assert np.allclose(match_attacks(audio, RATE, (-9.0, 1.0), stem_settings("bass")), audio, atol=1e-6)


def test_the_strongest_compressor_is_used_where_none_suffices():
    audio = hits([-3, -3])
    matched = match_attacks(audio, RATE, (-60.0, 0.0), stem_settings("vocals"))
    assert peak_db(matched) < peak_db(audio) - 5


# Reverb


def test_reverb_rings_on_and_keeps_the_dry_stem():
    audio = np.zeros((2, 2 * RATE), np.float32)
    audio[:, 0] = 1
    wet = draw_reverb(np.random.default_rng(0)).apply(audio, RATE)
    assert wet.shape == audio.shape
    assert np.allclose(wet[:, 0], 1, atol=0.05)
    late = wet[:, RATE:]
    assert np.abs(late).max() > 1e-4
    frequencies, power = signal.welch(late[0], RATE, nperseg=4096)
    middle, low, high = (
        power[(frequencies > a) & (frequencies < b)].mean() for a, b in ((1500, 4000), (0, 100), (15_000, 20_000))
    )
    assert 10 * np.log10(low / middle) < -20
    assert 10 * np.log10(high / middle) < -20


def test_pre_reverb_halves_the_dry_stem():
    audio = np.zeros((2, RATE), np.float32)
    audio[:, 0] = 1
    send = draw_pre_reverb(np.random.default_rng(0))
    assert send.reverb.decay_seconds < 1.5
    assert np.allclose(send.apply(audio, RATE)[:, 0], 0.5, atol=0.05)


# Averages


def test_averages_are_means_over_tracks_that_sound():
    quiet, loud = to_loudness(noise(1, 0.3), RATE, -36), to_loudness(noise(1, 0.5), RATE, -20)
    silence = np.zeros((2, RATE), np.float32)
    tracks = ({"bass": audio, "drums": silence} for audio in (quiet, silence, loud))
    measured = EffectAverages.measure(tracks, RATE)
    assert list(measured.stems) == ["bass"]
    bass = measured.stems["bass"]
    assert bass.tracks == 2
    assert bass.loudness == pytest.approx(-28, abs=0.01)
    assert np.allclose(bass.similarity, (0.42 / 0.58 + 1) / 2, atol=1e-3)


def test_averages_do_not_depend_on_the_level_of_a_stem():
    first, second = (EffectAverages.measure([{"drums": gain * noise()}], RATE).stems["drums"] for gain in (1, 0.1))
    assert second.loudness == pytest.approx(first.loudness - 20, abs=0.01)
    assert np.allclose(second.spectrum, first.spectrum, rtol=1e-3)
    assert second.attack_db == pytest.approx(first.attack_db, abs=1e-3)


def test_averages_survive_their_file(tmp_path):
    measured = averages()
    path = tmp_path / "folder" / "averages.json"
    measured.save(path)
    read = EffectAverages.load(path)
    assert read.sample_rate == RATE
    assert read.stems.keys() == measured.stems.keys()
    for name, stem in measured.stems.items():
        for field in StemAverages.__dataclass_fields__:
            assert np.array_equal(getattr(read.stems[name], field), getattr(stem, field))
    assert [each.name for each in path.parent.iterdir()] == ["averages.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.update(schema=99),
        lambda values: values["stems"]["vocals"]["spectrum"].pop(),
        lambda values: values["stems"]["vocals"].pop("loudness"),
        lambda values: values["stems"]["vocals"].update(attack_db=float("nan")),
    ],
)
def test_damaged_averages_are_refused(tmp_path, damage):
    path = tmp_path / "averages.json"
    averages().save(path)
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"averages\.json: expected"):
        EffectAverages.load(path)


@pytest.mark.parametrize("content", ["{", "[]", "null", None])
def test_files_of_something_else_are_refused(tmp_path, content):
    path = tmp_path / "averages.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"averages\.json: expected"):
        EffectAverages.load(path)


def test_a_training_set_of_silence_is_refused():
    with pytest.raises(DataError, match="found none that sounds"):
        EffectAverages.measure([{"bass": np.zeros((2, RATE), np.float32)}], RATE)


# The chain


def test_default_chain_reaches_loudness_panorama_and_spectrum():
    measured = averages(position=0.7, cutoff_hz=1500)
    result = EffectNormaliser(measured).apply("vocals", noise(1.5, 0.15, seed=5))
    wanted = measured.stems["vocals"]
    assert pyloudnorm.Meter(RATE).integrated_loudness(result.T) == pytest.approx(wanted.loudness, abs=0.01)
    louder = position(0.9 * 0.42 / 0.58)
    assert np.allclose(shares(result), [louder, 1 - louder], atol=0.01)
    own = mean_spectrum(to_loudness(result, RATE, -30), 401)
    decibels = 20 * np.log10(own / wanted.spectrum)[10:700]
    assert decibels.std() < 0.5


@pytest.mark.parametrize("effects", [EFFECTS, ("equaliser", "panning", "loudness"), ("compression",), ()])
def test_result_is_deterministic_finite_and_does_not_depend_on_level(effects):
    normaliser, audio = EffectNormaliser(averages(), effects), noise(1, 0.3, seed=2)
    kept = audio.copy()
    result = normaliser.apply("vocals", audio, track="song")
    assert np.array_equal(audio, kept)
    assert result.dtype == np.float32
    assert result.shape == audio.shape
    assert np.isfinite(result).all()
    assert np.array_equal(normaliser.apply("vocals", audio, track="song"), result)
    softer = normaliser.apply("vocals", 0.5 * audio, track="song")
    assert np.allclose(softer if "loudness" in effects else 2 * softer, result, atol=1e-4)


def test_without_the_loudness_effect_a_stem_stays_as_loud_as_it_was():
    audio = noise(1, 0.3)
    result = EffectNormaliser(averages(), ["equaliser", "panning"]).apply("vocals", audio)
    meter = pyloudnorm.Meter(RATE)
    assert meter.integrated_loudness(result.T) == pytest.approx(meter.integrated_loudness(audio.T), abs=0.01)


def test_order_of_the_chain_is_fixed():
    assert EffectNormaliser(averages(), ["loudness", "equaliser"]).effects == ("equaliser", "loudness")


def test_reverb_follows_from_seed_track_and_stem_and_is_not_for_drums():
    measured, audio = averages(), noise()
    normaliser = EffectNormaliser(measured, ["reverb"])
    first = normaliser.apply("vocals", audio, track="a")
    assert not np.allclose(first, normaliser.apply("vocals", audio, track="b"), atol=1e-3)
    assert not np.allclose(first, EffectNormaliser(measured, ["reverb"], seed=1).apply("vocals", audio, "a"), atol=1e-3)
    assert np.allclose(normaliser.apply("drums", audio), audio, atol=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 10, 1000, 17_000])
@pytest.mark.parametrize("silent", [False, True])
def test_short_and_silent_stems(samples, silent):
    """Loudness needs 0.4 s, 17,640 samples; the equaliser's frames have 65,536."""
    audio = noise()[:, :samples] * np.float32(0.001 if silent else 1)
    result = EffectNormaliser(averages(), EFFECTS).apply("vocals", audio)
    assert result.shape == (2, samples)
    assert np.isfinite(result).all()
    if silent:
        assert np.array_equal(result, audio)


def test_a_stem_that_is_not_in_the_averages():
    normaliser = EffectNormaliser(averages(stems=("bass",)))
    silence = np.zeros((2, 100), np.float32)
    assert np.array_equal(normaliser.apply("vocals", silence), silence)
    with pytest.raises(DataError, match="expected averages of the stem vocals, found those of bass"):
        normaliser.apply("vocals", noise())


@pytest.mark.parametrize("effects", [["echo"], ["loudness", "loudness"]])
def test_other_effects_are_refused(effects):
    with pytest.raises(ConfigError, match="expected different effects of"):
        EffectNormaliser(averages(), effects)


@pytest.mark.parametrize(
    "audio", [np.zeros(100), np.zeros((1, 100)), np.full((2, 100), np.nan), np.full((2, 100), np.inf)]
)
def test_other_audio_is_refused(audio):
    with pytest.raises(ValueError, match="vocals as finite audio of shape"):
        EffectNormaliser(averages()).apply("vocals", audio)
    with pytest.raises(ValueError, match="vocals as finite audio of shape"):
        EffectAverages.measure([{"vocals": audio}], RATE)
