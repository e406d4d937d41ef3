"""What a benchmark and every task rely on, shown for every data set with a target."""

import numpy as np
import pytest
import soundfile
import torch

from sonido_bench.batches import AudioBatch, NoteBatch, StemBatch, TargetBatch
from sonido_bench.datamodules.multitrack import MultitrackDataModule
from sonido_bench.datamodules.musdb18 import MUSDB18HQDataModule
from sonido_bench.datamodules.rendered import RenderedDataModule
from sonido_bench.datamodules.rendered_stems import RenderedStemsDataModule
from sonido_bench.features.cache import FeatureCache
from sonido_bench.foundation.logmel import LogMel

RENDERED = {"seconds": 1.0, "train_tracks": 4, "validation_tracks": 2, "test_tracks": 2}
SEGMENTS = {"segment_seconds": 1.0}
CASES = {
    "rendered-key": (RenderedDataModule, "key", RENDERED, TargetBatch),
    "rendered-notes": (RenderedDataModule, "notes", RENDERED, NoteBatch),
    "rendered-stems": (RenderedStemsDataModule, "stems", RENDERED, StemBatch),
    "rendered-mix": (RenderedStemsDataModule, "mix", RENDERED, StemBatch),
    "musdb18hq-stems": (MUSDB18HQDataModule, "stems", SEGMENTS, StemBatch),
    "musdb18hq-mix": (MUSDB18HQDataModule, "mix", SEGMENTS, StemBatch),
    "multitrack-stems": (MultitrackDataModule, "stems", SEGMENTS, StemBatch),
}
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tracks in the layout of MUSDB18-HQ, which is that of any multitracks too, with a downmix beside the stems."""
    root, rng = tmp_path_factory.mktemp("stems"), np.random.default_rng(0)
    for name in ("train/One", "train/Two", "train/Actions - One Minute Smile", "test/Three", "test/Four"):
        stems = {stem: 0.1 * rng.standard_normal((22050 * 5, 2)) for stem in ("vocals", "drums", "bass", "other")}
        mixture = sum(stems.values())
        (root / name).mkdir(parents=True)
        for stem, audio in {**stems, "mixture": mixture, "downmix": mixture.mean(1)}.items():
            soundfile.write(root / name / f"{stem}.wav", audio, 44100, subtype="FLOAT")
    return {
        RenderedDataModule: tmp_path_factory.mktemp("rendered"),
        RenderedStemsDataModule: tmp_path_factory.mktemp("rendered-stems"),
        MUSDB18HQDataModule: root,
        MultitrackDataModule: root,
    }


@pytest.fixture(params=CASES, ids=str)
def make(request, folders):
    """Build a data set with what a benchmark gives: target, share, seed, sizes."""
    kind, target, options, _ = CASES[request.param]

    def build(fraction=1.0, seed=0, batch_size=2, batches_per_epoch=3):
        given = {"batch_size": batch_size, "batches_per_epoch": batches_per_epoch}
        data = kind(root=folders[kind], target=target, fraction=fraction, seed=seed, **given, **options)
        for job in data.preparation_jobs():
            job()
        data.finish_preparation()
        data.setup(None)
        return data

    build.batch = CASES[request.param][3]
    return build


def loaders(data):
    return {"train": data.train_dataloader(), "validation": data.val_dataloader(), "test": data.test_dataloader()}


def test_batches_are_of_their_type_and_hold_audio(make):
    for split, loader in loaders(make()).items():
        for batch in loader:
            missing = make.batch.__required_keys__ - batch.keys()
            assert not missing
            assert not batch.keys() - make.batch.__annotations__.keys() - AudioBatch.__annotations__.keys()
            clips = len(batch["clip"])
            assert batch["audio"].shape[0] == clips
            assert batch["audio"].ndim == 3
            assert batch["audio"].dtype == torch.float32
            assert batch["audio"].shape[-1] == round(batch["seconds"] * batch["sample_rate"])
            assert len(set(batch["clip"])) == clips or split == "train"


def test_clips_are_what_the_loaders_give(make):
    data = make()
    for split, loader in loaders(data).items():
        given = [name for batch in loader for name in batch["clip"]]
        named = [clip.name for clip in data.clips(split)]
        assert len(set(named)) == len(named)
        assert set(given) <= set(named) if split == "train" else given == named


def test_cached_streams_take_the_place_of_audio(make, tmp_path):
    data, model = make(), LogMel(sample_rate=8000, n_fft=512, hop_length=256, num_mels=24, f_min=50.0)
    online = next(iter(data.test_dataloader()))
    clips = [clip for split in SPLITS for clip in data.clips(split)]
    cache = FeatureCache(tmp_path)
    cache.extract(model, clips)
    streams = cache.streams(model.fingerprint(), clips)
    data.attach(None, streams)
    batch = next(iter(data.test_dataloader()))
    assert batch["clip"] == online["clip"]
    assert "audio" not in batch
    assert "front_end" not in batch
    data.attach(streams, None)
    assert "front_end" in next(iter(data.train_dataloader()))
    data.attach(None, None)
    assert "audio" in next(iter(data.train_dataloader()))


def test_order_follows_from_seed_and_arms_share_it(make):
    def order(data):
        loader = data.train_dataloader()
        drawn = []
        for epoch in range(2):
            loader.batch_sampler.sampler.set_epoch(epoch)
            drawn += [tuple(batch["clip"]) for batch in loader]
        return drawn

    first = order(make(seed=3))
    assert len(first) == 6
    assert first == order(make(seed=3))


def test_smaller_shares_are_parts_of_larger_ones(make):
    small, large = ({clip.name for clip in make(fraction=fraction).clips("train")} for fraction in (0.4, 1.0))
    assert small < large
    evaluated = [[clip.name for clip in make(fraction=fraction).clips("test")] for fraction in (0.4, 1.0)]
    assert evaluated[0] == evaluated[1]


def test_it_says_what_it_is(make):
    data = make()
    assert data.name
    assert len(data.version) == len(data.sha256) == 64
    assert data.sha256 == make(fraction=0.4, seed=1).sha256
    row = data.describe()
    assert {"name", "version", *SPLITS, "prepared", "folder", "licence", "source"} <= row.keys()
    assert row["prepared"] == "yes"
    assert data.verify() == []
    assert not list(data.preparation_jobs())
