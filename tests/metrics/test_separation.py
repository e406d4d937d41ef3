import sys

import museval
import numpy as np
import pytest
import torch
from torchmetrics.functional.audio import signal_noise_ratio

from sonido_bench.errors import ConfigError
from sonido_bench.metrics.separation import bss_eval, csdr, frame_sdr, over_tracks, usdr

RATE = 2000


def sources(generator, count, channels, samples):
    """Noise, coloured and of a level of its own per source."""
    noise = generator.normal(size=(count, channels, samples))
    noise[..., 1:] += 0.7 * noise[..., :-1]
    return noise * generator.uniform(0.01, 0.5, size=(count, 1, 1))


def separated(generator, references):
    """Leakage of the other sources, another gain and some noise."""
    leakage = np.eye(len(references)) + 0.2 * generator.normal(size=(len(references),) * 2)
    estimates = np.einsum("ij,jct->ict", leakage, references)
    return estimates + 0.05 * references.std() * generator.normal(size=references.shape)


def silence_some_windows(generator, audio, rate):
    """Rests of some sources: of a window exactly, of less, and of more, from anywhere; channels in antiphase too."""
    for _ in range(generator.integers(0, 3)):
        source, start = generator.integers(len(audio)), generator.integers(max(1, audio.shape[-1] - rate))
        start = start // rate * rate if generator.random() < 0.6 else start
        part = slice(start, start + generator.choice([rate // 2, rate, rate + 3, 2 * rate]))
        audio[source, :, part] = 0.0
        if audio.shape[1] == 2 and generator.random() < 0.4:
            audio[source, 0, part] = 0.1 * generator.normal(size=audio[source, 0, part].shape)
            audio[source, 1, part] = -audio[source, 0, part]
    audio[:, 0, : rate // 10] += 1e-3 * generator.normal(
        size=audio[:, 0, : rate // 10].shape
    )  # never silent throughout


def random_case(seed):
    """References and estimates: 0.6 s to 6 s, odd tails, rests, estimates of another length."""
    generator = np.random.default_rng(seed)
    count, channels = [(2, 1), (3, 1), (2, 2)][seed % 3]
    samples = (
        int(generator.integers(RATE // 2 + 100, RATE)) if seed % 6 == 0 else int(generator.integers(RATE, 6 * RATE))
    )
    references = sources(generator, count, channels, samples)
    estimates = separated(generator, references)
    if samples > RATE:
        silence_some_windows(generator, references, RATE)
        silence_some_windows(generator, estimates, RATE)
    length = samples + int(generator.choice([0, 0, 700, -300, -RATE - 100]))
    if RATE // 2 < length < samples:
        estimates = estimates[..., :length]
    elif length > samples:
        estimates = np.concatenate([estimates, generator.normal(size=(count, channels, length - samples))], axis=-1)
    return references, estimates


def museval_sdr(references, estimates, rate=RATE):
    return museval.evaluate(references.swapaxes(1, 2), estimates.swapaxes(1, 2), win=rate, hop=rate)[0]


@pytest.mark.parametrize("seed", range(24))
def test_frames_equal_museval(seed):
    references, estimates = random_case(seed)
    expected = museval_sdr(references, estimates)
    found = frame_sdr(references, estimates, RATE)
    assert found.shape == expected.shape == (len(references), max(1, references.shape[-1] // RATE))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_frames_of_single_precision_equal_museval(seed):
    references, estimates = (audio.astype(np.float32) for audio in random_case(seed))
    expected = museval_sdr(references, estimates)
    np.testing.assert_allclose(frame_sdr(references, estimates, RATE), expected, rtol=0, atol=1e-6)


def test_the_random_cases_hold_what_they_are_for():
    """Without this the comparison could lose its odd cases unnoticed."""
    cases = [random_case(seed) for seed in range(24)]
    frames = [frame_sdr(*case, RATE) for case in cases]
    assert sum(references.shape[-1] < RATE for references, _ in cases) >= 4
    assert sum(references.shape[-1] % RATE > 0 for references, _ in cases) >= 20
    assert sum(references.shape[-1] > estimates.shape[-1] for references, estimates in cases) >= 4
    assert sum(references.shape[-1] < estimates.shape[-1] for references, estimates in cases) >= 4
    assert sum(np.isnan(scores).any() and not np.isnan(scores).all() for scores in frames) >= 10


@pytest.mark.parametrize("seed", range(2))
def test_frames_of_stereo_quartets_equal_museval(seed):
    """Four stereo stems at 44.1 kHz, with shorter filters: SDR does not depend on them, museval's time does."""
    generator = np.random.default_rng(seed)
    references = sources(generator, 4, 2, 44_100 * 2 + 4_567)
    estimates = separated(generator, references)
    if seed:
        references[seed, :, 44_100:88_200] = 0
    expected, *_ = museval.metrics.bss_eval(
        references.swapaxes(1, 2), estimates.swapaxes(1, 2), window=44_100, hop=44_100, filters_len=8
    )
    np.testing.assert_allclose(frame_sdr(references, estimates, 44_100), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 2])
def test_all_ratios_come_from_museval(seed):
    references, estimates = random_case(seed)
    ratios = bss_eval(references, estimates, RATE)
    assert [*ratios] == ["sdr", "isr", "sir", "sar"]
    np.testing.assert_allclose(ratios["sdr"], frame_sdr(references, estimates, RATE), rtol=0, atol=1e-6)
    assert {ratio.shape for ratio in ratios.values()} == {ratios["sdr"].shape}


def test_aggregation_equals_musevals():
    """Median over frames, then median and mean over tracks; museval rounds to five digits."""
    tables = {"median": museval.EvalStore(tracks_agg="median"), "mean": museval.EvalStore(tracks_agg="mean")}
    scores = []
    for track, seed in enumerate((1, 4, 7, 10, 13, 16)):  # three sources each
        references, estimates = random_case(seed)
        estimates[0, :, :RATE] = references[0, :, :RATE]  # a perfect window: infinite, left out
        frames = frame_sdr(references, estimates, RATE)
        store = museval.TrackStore(track_name=str(track))
        for index, row in enumerate(frames):
            store.add_target(f"source{index}", dict.fromkeys(("SDR", "ISR", "SIR", "SAR"), row.tolist()))
        for table in tables.values():
            table.add_track(store)
        scores.append(csdr(references, estimates, RATE))
    found = over_tracks(scores)
    for name, table in tables.items():
        expected = table.agg_frames_tracks_scores().xs("SDR", level="metric")
        np.testing.assert_allclose(getattr(found, name), expected.to_numpy(), atol=1e-5)


def test_known_ratios():
    generator = np.random.default_rng(0)
    references = sources(generator, 2, 2, 3 * RATE)
    for scores in (csdr(references, 3 * references, RATE), usdr(references, 3 * references)):
        np.testing.assert_allclose(scores, 10 * np.log10(1 / 4), atol=1e-6)  # the error is twice the signal
    assert np.isposinf(frame_sdr(references, references, RATE)).all()
    assert np.isnan(csdr(references, references, RATE)).all()
    energy = np.square(references).sum(axis=(1, 2))
    np.testing.assert_allclose(usdr(references, references), 10 * np.log10((energy + 1e-7) / 1e-7))


def test_usdr_is_the_ratio_of_the_whole_track():
    generator = np.random.default_rng(1)
    references = sources(generator, 3, 2, 70_001)  # more than a chunk
    estimates = separated(generator, references)
    expected = signal_noise_ratio(*(torch.from_numpy(audio).flatten(1) for audio in (estimates, references)))
    np.testing.assert_allclose(usdr(references, estimates), expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(usdr(references[..., ::-1], estimates[..., ::-1]), expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(usdr(references[::-1], estimates[::-1]), expected.numpy()[::-1], atol=1e-6)


def test_median_of_frames_ignores_one_bad_window():
    generator = np.random.default_rng(2)
    references = sources(generator, 2, 1, 5 * RATE)
    estimates = 1.1 * references
    estimates[:, :, :RATE] = generator.normal(size=(2, 1, RATE))
    np.testing.assert_allclose(csdr(references, estimates, RATE), 20, atol=1e-9)
    assert (usdr(references, estimates) < 10).all()


def test_a_silent_reference_is_left_out():
    """museval refuses the track; the other sources are scored as if it did not have that one."""
    references, estimates = random_case(1)
    with_silent = np.concatenate([references, np.zeros_like(references[:1])])
    estimated = np.concatenate([estimates, 0.01 + np.zeros_like(estimates[:1])])
    with pytest.raises(ValueError, match="should be non-silent"):
        museval_sdr(with_silent, estimated)
    assert np.isnan(frame_sdr(with_silent, estimated, RATE)).all()
    np.testing.assert_array_equal(csdr(with_silent, estimated, RATE), [*csdr(references, estimates, RATE), np.nan])
    np.testing.assert_array_equal(usdr(with_silent, estimated), [*usdr(references, estimates), np.nan])
    assert np.isnan(csdr(0 * references, estimates, RATE)).all()
    assert np.isnan(usdr(0 * references, estimates)).all()


def test_a_silent_estimate_scores_zero():
    generator = np.random.default_rng(3)
    references = sources(generator, 2, 2, 3 * RATE)
    estimates = separated(generator, references)
    alone = csdr(references, estimates, RATE)
    estimates[1] = 0
    np.testing.assert_allclose(csdr(references, estimates, RATE), [alone[0], 0], atol=1e-9)
    assert usdr(references, estimates)[1] == pytest.approx(0, abs=1e-6)
    assert np.isnan(frame_sdr(references, estimates, RATE)).all()


def test_over_tracks_leaves_out_what_is_not_defined():
    nan, inf = np.nan, np.inf
    found = over_tracks([[1.0, nan, nan], [2.0, 4.0, inf], [6.0, nan, nan]])
    np.testing.assert_array_equal(found.median, [2, 4, nan])
    np.testing.assert_array_equal(found.mean, [3, 4, nan])
    assert found.tracks.tolist() == [3, 1, 0]
    with pytest.raises(ValueError, match=r"\(tracks, sources\), got \(3,\)"):
        over_tracks([1.0, 2.0, 3.0])


def test_bad_input_is_refused():
    audio = np.ones((2, 1, 10))
    for wrong in (np.ones((3, 1, 10)), np.ones((2, 2, 10)), np.ones((2, 10))):
        with pytest.raises(ValueError, match="expected references and estimates"):
            usdr(audio, wrong)
    with pytest.raises(ValueError, match="same sources"):
        csdr(audio[..., :0], audio, RATE)
    with pytest.raises(ValueError, match="finite estimates"):
        csdr(audio, np.where(np.arange(10) == 9, np.nan, audio), RATE)
    with pytest.raises(ValueError, match="finite references"):
        frame_sdr(audio * np.inf, audio, RATE)
    with pytest.raises(ValueError, match="at least 1 Hz, got 0"):
        frame_sdr(audio, audio, 0)
    with pytest.raises(ValueError, match="leave its source out"):
        bss_eval(audio, 0 * audio, RATE)
    assert csdr(audio, audio[..., :0], 5).tolist() == [0, 0]  # nothing is a silent estimate


def test_museval_without_ffmpeg_gives_one_clear_error(monkeypatch):
    for name in [*sys.modules]:
        if name.split(".")[0] in ("museval", "musdb", "stempeg"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("PATH", "")
    audio = np.ones((2, 1, 100))
    with pytest.raises(ConfigError, match=r"ffmpeg and ffprobe on the PATH; install them"):
        bss_eval(audio, audio, RATE)
    assert csdr(audio, 2 * audio, RATE).tolist() == [0, 0]  # needs neither


def test_a_missing_museval_gives_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "museval", None)
    with pytest.raises(ConfigError, match="pip install museval"):
        bss_eval(np.ones((2, 1, 100)), np.ones((2, 1, 100)), RATE)
