import pickle

import numpy as np
import pytest
import soundfile
import torch

from sonido_bench.audio import resample, to_mono
from sonido_bench.benchmark.config import ClassConfig
from sonido_bench.benchmark.instantiate import build
from sonido_bench.datamodules.mix_inputs import StemNormalisation
from sonido_bench.datamodules.rendered import RenderedDataModule
from sonido_bench.datamodules.rendered_stems import RenderedStemsDataModule
from sonido_bench.datamodules.rendering.mixing import Mix
from sonido_bench.datamodules.stem_augmentation import FXNORM, UMX
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.features.cache import FeatureCache
from sonido_bench.foundation.logmel import LogMel

SMALL = {"seconds": 1.5, "train_tracks": 4, "validation_tracks": 2, "test_tracks": 2, "batch_size": 2}
SAMPLES = 66150


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("rendered")
    RenderedStemsDataModule(root, "mix", **SMALL).prepare_data()
    return root


def ready(root, target="stems", **options):
    data = RenderedStemsDataModule(root, target, **(SMALL | options))
    data.prepare_data()
    data.setup()
    return data


def truth(data, name):
    return next(track for track in data.manifest.tracks if track.name == name)


def test_separation(root):
    data = ready(root)
    assert data.classes == ("vocals", "drums", "bass", "other")
    batches = list(data.test_dataloader())
    assert [batch["clip"] for batch in batches] == [["test-00000", "test-00001"]]
    batch = batches[0]
    assert batch["stems"].shape == (2, 4, 2, SAMPLES)
    assert batch["audio"] is batch["mixture"]
    assert batch["track"] == batch["clip"]
    assert not batch["augmented"]
    torch.testing.assert_close(batch["stems"].sum(dim=1), batch["mixture"], atol=2e-4, rtol=0)
    assert batch["mixture"].abs().max() > 0.1


def test_mixing(root):
    """The dry stems and the desk's settings give the mix back: the items are what the desk heard and what it made."""
    data = ready(root, "mix")
    batch = next(iter(data.test_dataloader()))
    assert batch["stems"].shape == (2, 4, 2, SAMPLES)
    torch.testing.assert_close(batch["audio"], batch["stems"].sum(dim=1).mean(dim=1, keepdim=True))
    wet = next(iter(ready(root).test_dataloader()))
    assert torch.equal(batch["mixture"], wet["mixture"])
    track = truth(data, "test-00000")
    dry = [
        soundfile.read(data.folder / "dry" / track.name / f"{part['role']}.wav", dtype="float32")[0].T
        for part in track.parts
    ]
    np.testing.assert_allclose(batch["stems"][0].sum(dim=0).numpy(), sum(dry), atol=1e-6)
    mixture = Mix.from_dict(track.mix).mixture(dry, track.sample_rate)
    np.testing.assert_allclose(batch["mixture"][0].numpy(), mixture, atol=2e-3)
    named = {"vocals": ("melody",), "drums": ("drums",), "bass": ("bass",), "other": ("chords", "pad", "counter")}
    for stem, name in zip(batch["stems"][0].numpy(), batch["stem_names"], strict=True):
        parts = [audio for audio, part in zip(dry, track.parts, strict=True) if part["role"] in named[name]]
        np.testing.assert_allclose(stem, sum(parts, np.zeros((2, SAMPLES), np.float32)), atol=1e-6)


@pytest.mark.parametrize("target", ["stems", "mix"])
def test_cached_features_are_those_of_the_audio_that_online_extraction_hears(root, target, tmp_path):
    data = ready(root, target)
    clips = [clip for split in ("train", "validation", "test") for clip in data.clips(split)]
    assert len({clip.name for clip in clips}) == len({clip.sha256 for clip in clips}) == 8
    extractor, cache = LogMel(sample_rate=16000, n_fft=512, hop_length=256, num_mels=16), FeatureCache(tmp_path)
    assert cache.extract(extractor, clips) == 8
    online = next(iter(data.val_dataloader()))
    data.attach(None, cache.streams(extractor.fingerprint(), clips))
    cached = next(iter(data.val_dataloader()))
    assert "audio" not in cached
    assert torch.equal(online["mixture"], cached["mixture"])
    streams = extractor.extract(resample(to_mono(online["audio"]), 44100, 16000))
    for name, values in streams.items():
        torch.testing.assert_close(cached["features"][name], values, atol=2e-3, rtol=2e-3)


def test_separation_shares_its_cache_with_the_other_targets(root):
    labelled = RenderedDataModule(root, "key", stems=True, **SMALL)
    assert labelled.version == ready(root).version
    assert ready(root).clips("test") == labelled.clips("test")
    assert ready(root, "key").clips("train") == labelled.clips("train")


@pytest.mark.parametrize("target", ["instruments", "key", "tempo", "notes"])
def test_the_other_targets_are_as_they_were(root, target):
    ours, theirs = ready(root, target), RenderedDataModule(root, target, stems=True, **SMALL)
    theirs.setup()
    assert ours.classes == theirs.classes
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for one, other in zip(getattr(ours, name)(), getattr(theirs, name)(), strict=True):
            assert one["clip"] == other["clip"]
            assert set(one) == set(other)
    with pytest.raises(ConfigError, match="has no stems"):
        ours.tracks("test")


def test_arms_share_the_order_of_training(root):
    orders = []
    for features in (None, {clip.name: {"x": torch.zeros(3, 2)} for clip in ready(root).clips("train")}):
        data = ready(root, seed=2, batches_per_epoch=5)
        data.attach(None, features)
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(1)
        orders.append([batch["clip"] for batch in loader])
    assert orders[0] == orders[1]
    assert len(orders[0]) == 5


def test_segments(root):
    data = ready(root, segment_seconds=0.5, fraction=0.5)
    batches = list(data.train_dataloader())
    assert len(data.clips("train")) == 2 * 3
    assert all(batch["stems"].shape == (2, 4, 2, 22050) for batch in batches)
    assert next(iter(data.test_dataloader()))["seconds"] == 1.5  # tests hear whole tracks


def test_augmentation_is_for_training_alone_and_refuses_a_cache(root):
    data = ready(root, augmentation=UMX, segment_seconds=0.5)
    batch = next(iter(data.train_dataloader()))
    assert batch["augmented"]
    torch.testing.assert_close(batch["audio"], batch["stems"].sum(dim=1))
    assert not next(iter(data.test_dataloader()))["augmented"]
    for refused in (lambda: data.clips("train"), lambda: data.attach(None, {})):
        with pytest.raises(ConfigError, match="cached features cannot serve this data set"):
            refused()
    assert next(iter(ready(root, "mix", augmentation=FXNORM).train_dataloader()))["augmented"]


class Halved:
    identity = "0123456789abcdef"

    def apply(self, track, stem, audio, sample_rate):
        assert stem in ("vocals", "drums", "bass", "other")
        assert sample_rate == 44100
        return audio / 2


class Loud(Halved):
    identity = "fedcba9876543210"

    def apply(self, track, stem, audio, sample_rate):
        return audio / audio.abs().max().clamp_min(1e-3) * 1.5


class Broken(Halved):
    identity = "ffffffffffffffff"

    def apply(self, track, stem, audio, sample_rate):
        return audio * float("nan")


def test_normalised_inputs_are_made_once(root):
    assert isinstance(Halved(), StemNormalisation)
    plain = next(iter(ready(root, "mix").test_dataloader()))
    data = RenderedStemsDataModule(root, "mix", normalisation=Halved(), **SMALL)
    jobs = data.preparation_jobs()
    assert sorted(job.label for job in jobs) == sorted(track.name for track in data.manifest.tracks)
    with pytest.raises(DataError, match="the input of mixing of test-00000 is missing; prepare"):
        data.clips("test")
    pickle.loads(pickle.dumps(jobs[0]))()
    assert len(data.preparation_jobs()) == len(jobs) - 1
    data.finish_preparation()
    assert data.preparation_jobs() == []
    halved = next(iter(data.test_dataloader()))
    assert torch.equal(halved["stems"], plain["stems"] / 2)
    assert torch.equal(halved["mixture"], plain["mixture"])
    assert {clip.sha256 for clip in data.clips("test")}.isdisjoint(
        clip.sha256 for clip in ready(root, "mix").clips("test")
    )


def test_loud_stems_are_not_clipped(root):
    batch = next(iter(ready(root, "mix", normalisation=Loud()).test_dataloader()))
    assert batch["stems"].abs().max() == pytest.approx(1.5, abs=1e-6)


def test_a_broken_normalisation_is_named(root):
    with pytest.raises(DataError, match="expected finite normalised"):
        ready(root, "mix", normalisation=Broken())


def test_jobs_render_and_make_the_inputs(tmp_path):
    data = RenderedStemsDataModule(tmp_path, "mix", seconds=1.0, train_tracks=1, validation_tracks=0, test_tracks=0)
    with pytest.raises(DataError, match="prepare it first"):
        data.setup()
    (job,) = data.preparation_jobs()
    pickle.loads(pickle.dumps(job))()
    assert list(data.input_folder.rglob("downmix.au"))
    data.finish_preparation()
    assert data.preparation_jobs() == []
    first = (data.input_folder / "train-00000" / "downmix.au").read_bytes()
    (data.input_folder / "train-00000" / "downmix.au").unlink()
    (again,) = data.preparation_jobs()
    again()
    assert (data.input_folder / "train-00000" / "downmix.au").read_bytes() == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "genre"}, "target must be one of instruments, key, tempo, notes, stems, mix, got 'genre'"),
        ({"segment_seconds": 2.0}, "segment_seconds must be at most seconds"),
        ({"segment_seconds": 0.0}, "0.01 s or longer"),
        ({"batch_size": 0}, "batch_size"),
        ({"fraction": 1.5}, "fraction must be in"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ConfigError, match=message):
        RenderedStemsDataModule(**({"target": "stems"} | SMALL | options))


def test_it_is_built_from_a_benchmark_file(root):
    config = ClassConfig(
        "sonido_bench.datamodules.rendered_stems.RenderedStemsDataModule",
        {"root": str(root), "seconds": 1.5, "augmentation": {"random_tracks": True}},
    )
    given = {"target": "mix", "fraction": 0.5, "seed": 1, "batch_size": 4, "batches_per_epoch": 2}
    data = build(config, given)
    assert data.format.target == "mix"
    assert data.augmentation.random_tracks
