import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from sonido_bench.benchmark.probes import LabelledClips, Predictions, Stream, labelled_clips, run_probes
from sonido_bench.benchmark.resampling import bootstrap_weights
from sonido_bench.clips import Clip
from sonido_bench.datamodules.rendered import track_notes
from sonido_bench.datamodules.rendering.dataset import RenderedConfig, prepare
from sonido_bench.features.spec import FeatureSpec, StreamSpec
from sonido_bench.metrics.key import KEYS, key_scores

FRAMES = 22  # of 46 ms in a second
SPEC = FeatureSpec(22_050, {"fine": StreamSpec(3, 512, 256 / 22_050), "coarse": StreamSpec(2, 1024, 512 / 22_050)})


def clips(count: int) -> LabelledClips:
    """Clips of a second with random truths: one long note each, in one of four keys."""
    rng = np.random.default_rng(count)
    notes = [torch.tensor([[0.2, 0.8, 60.0 + number % 5, 90.0]]) for number in range(count)]
    names = [f"clip-{number}" for number in range(count)]
    return LabelledClips(
        [Clip(name, None, "", 0.0, 1.0) for name in names],
        rng.integers(4, size=count),
        rng.integers(2, size=(count, 12)).astype(float),
        notes,
    )


def telling(labelled: LabelledClips, noise: float) -> Stream:
    """A stream from which every truth can be read."""
    generator = torch.Generator().manual_seed(0)
    cached = {}
    for number, clip in enumerate(labelled.clips):
        truth = np.concatenate([np.eye(4)[labelled.keys[number]], labelled.instruments[number]])
        constant = torch.from_numpy(truth).float().expand(FRAMES, -1)
        frames = torch.cat([constant, torch.from_numpy(labelled.note_maps[number])], dim=1)
        cached[clip.name] = {"truth": frames + noise * torch.randn(frames.shape, generator=generator)}
    return Stream(FeatureSpec(22_050, {"truth": StreamSpec(104, 1024, 512 / 22_050)}), ["truth"], cached)


def scores(found: Predictions, truth: LabelledClips) -> dict[str, float]:
    weights = np.ones((len(truth.clips), 1))
    metrics = ("key_accuracy", "key_score", "instrument_map", "note_ap")
    return {metric: found.scores(metric, truth, weights)[0] for metric in metrics}


def test_what_a_stream_tells_is_read_off():
    every = clips(120)
    halves = [
        LabelledClips(every.clips[part], every.keys[part], every.instruments[part], every.notes[part])
        for part in (slice(0, 80), slice(80, None))
    ]
    clear = scores(run_probes(telling(every, 0.05), *halves), halves[1])
    assert clear["key_score"] >= clear["key_accuracy"] > 0.85
    assert clear["instrument_map"] > 0.9
    assert clear["note_ap"] > 0.95
    drowned = scores(run_probes(telling(every, 50.0), *halves), halves[1])
    assert drowned["key_accuracy"] < 0.6
    assert drowned["instrument_map"] < 0.75
    assert drowned["note_ap"] < 0.2


def test_streams_are_pooled_one_by_one():
    generator = torch.Generator().manual_seed(0)
    fine, coarse = torch.randn(44, 3, generator=generator), torch.randn(22, 2, generator=generator)
    labelled = clips(1)
    found = Stream(SPEC, ["coarse", "fine"], {"clip-0": {"fine": fine, "coarse": coarse}}).pooled(labelled.clips)[0]
    expected = []
    for values in (coarse.double().numpy(), fine.double().numpy()):
        expected += [values.mean(0), values.std(0), values.max(0)]
    assert np.allclose(found, np.concatenate(expected), atol=1e-6)


def test_all_streams_meet_on_the_probed_frames():
    fine, coarse = torch.arange(44.0)[:, None].expand(44, 3), torch.arange(22.0)[:, None].expand(22, 2)
    found = Stream(SPEC, ["coarse", "fine"], {"clip-0": {"fine": fine, "coarse": coarse}}).framewise(clips(1).clips[0])
    assert found.shape == (22, 5)
    assert np.allclose(found[:, 0], np.arange(22))
    assert np.allclose(found[1:-1, 4], 2 * np.arange(22)[1:-1] + 0.5)  # the mean of two fine frames


@pytest.mark.parametrize("tied", [False, True])
def test_note_ap_is_that_of_scikit_learn_in_every_resample(tied):
    rng = np.random.default_rng(0)
    truth = clips(10)
    logits = 2 * truth.note_maps + rng.normal(size=truth.note_maps.shape)
    logits = np.round(logits) if tied else logits
    weights = bootstrap_weights(10, 5, seed=0)
    nothing = np.zeros((10, 24))
    found = Predictions(nothing, nothing, logits).scores("note_ap", truth, weights)
    for column, expected in zip(weights.T, found, strict=True):
        cells = np.repeat(np.arange(10), column.astype(int))
        exact = average_precision_score(truth.note_maps[cells].ravel(), logits[cells].ravel())
        assert expected == pytest.approx(exact, abs=5e-3)  # ten clips have few positives; bins hold several of them


def test_key_scores_are_means_over_clips():
    truth = clips(10)
    found = Predictions(np.random.default_rng(0).normal(size=(10, 24)), np.zeros((10, 12)), np.zeros((10, FRAMES, 88)))
    weights = bootstrap_weights(10, 3, seed=0)
    estimates = found.keys.argmax(1)
    expected = [np.average(key_scores(truth.keys, estimates), weights=column) for column in weights.T]
    assert found.scores("key_score", truth, weights) == pytest.approx(expected)
    expected = [np.average(truth.keys == estimates, weights=column) for column in weights.T]
    assert found.scores("key_accuracy", truth, weights) == pytest.approx(expected)


def test_truths_come_from_the_manifest(tmp_path):
    manifest = prepare(tmp_path, RenderedConfig(seed=3, seconds=1.5, train=2, validation=1, test=0))
    train = labelled_clips(manifest, "train")
    assert [clip.name for clip in train.clips] == ["train-00000", "train-00001"]
    assert all(clip.path.is_file() for clip in train.clips)
    tracks = manifest.split("train")
    assert [KEYS[key] for key in train.keys] == [track.key for track in tracks]
    assert train.instruments.sum(1).tolist() == [len(track.families) for track in tracks]
    assert torch.equal(train.notes[1], track_notes(tracks[1]))
    assert train.note_maps.shape == (2, 32, 88)
    assert len(labelled_clips(manifest, "validation").clips) == 1
