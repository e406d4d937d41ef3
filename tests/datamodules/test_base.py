from collections import Counter
from itertools import chain

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sonido_bench.clips import Clip
from sonido_bench.datamodules.base import ClipDataset, PairedBatchSampler, clip_loader, training_subset
from sonido_bench.errors import CacheError, ConfigError

RATE = 8000


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    made = []
    for number in range(5):
        path = folder / f"{number}.wav"
        soundfile.write(path, rng.uniform(-0.5, 0.5, (RATE, 2)), RATE, subtype="FLOAT")
        made.append(Clip(f"clip-{number}", path, "0" * 64, 0.25, 0.5))
    return made


def streams(clips, dtype=torch.float16):
    return {clip.name: {"top": torch.full((3, 2), float(place), dtype=dtype)} for place, clip in enumerate(clips)}


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 5), st.integers(1, 9) | st.none())
@settings(max_examples=100, deadline=None)
def test_sampler_sees_all_items_equally_often(size, batch_size, seed, batches):
    sampler = PairedBatchSampler(size, batch_size, seed, batches)
    seen = Counter()
    for epoch in range(4):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        assert all(len(batch) == batch_size for batch in drawn)
        seen.update(chain.from_iterable(drawn))
        assert set(seen) <= set(range(size))
        assert max(seen.values()) - (min(seen.values()) if len(seen) == size else 0) <= 1
    if batches is None:
        assert len(seen) == size


def test_sampler_is_a_function_of_seed_and_epoch():
    one, other = PairedBatchSampler(10, 4, 7, 5), PairedBatchSampler(10, 4, 7, 5)
    list(one)
    one.set_epoch(3)
    other.set_epoch(3)
    assert list(one) == list(one) == list(other)
    other.set_epoch(2)
    assert list(one) != list(other)
    assert list(PairedBatchSampler(10, 4, 8, 5)) != list(PairedBatchSampler(10, 4, 7, 5))
    with pytest.raises(ConfigError, match="at least one"):
        PairedBatchSampler(0, 4, 7)


@given(st.integers(1, 300), st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_training_subsets_are_nested(size, one, other, seed):
    small, large = (training_subset(size, fraction, seed) for fraction in sorted((one, other)))
    assert large[: len(small)] == small
    assert len(set(large)) == len(large)
    assert sorted(training_subset(size, 1.0, seed)) == list(range(size))


def test_training_subset_sizes():
    assert len(training_subset(600, 0.1, 0)) == 60  # 0.1 * 600 is a little more than 60 in floating point
    assert len(training_subset(600, 0.01, 0)) == 6
    assert len(training_subset(10, 0.01, 0)) == 1
    assert training_subset(600, 0.1, 0) != training_subset(600, 0.1, 1)
    for fraction in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"fraction must be in \(0, 1\]"):
            training_subset(600, fraction, 0)


def test_online_batches(clips):
    dataset = ClipDataset(clips, targets=torch.arange(5))
    batch = dataset[3]
    assert batch["clip"] == ["clip-3"]
    batches = list(clip_loader(dataset, 2, num_workers=0))
    assert [batch["clip"] for batch in batches] == [["clip-0", "clip-1"], ["clip-2", "clip-3"], ["clip-4"]]
    assert batches[0]["audio"].shape == (2, 2, 4000)
    assert batches[0]["audio"].dtype == torch.float32
    assert (batches[0]["sample_rate"], batches[0]["seconds"]) == (RATE, 0.5)
    assert batches[1]["target"].tolist() == [2, 3]
    assert "features" not in batches[0]
    assert "front_end" not in batches[0]


def test_cached_batches(clips):
    dataset = ClipDataset(clips, notes=[torch.full((place, 4), 1.0) for place in range(5)])
    dataset.attach(streams(clips), None)
    batch = dataset.__getitems__([4, 1])
    assert set(batch) == {"clip", "seconds", "front_end", "notes"}
    assert batch["front_end"]["top"].shape == (2, 3, 2)
    assert batch["front_end"]["top"].dtype == torch.float32
    assert batch["front_end"]["top"][:, 0, 0].tolist() == [4, 1]
    assert [len(notes) for notes in batch["notes"]] == [4, 1]
    dataset.attach(streams(clips), streams(clips))
    assert "features" in dataset[0]
    dataset.attach(None, None)
    assert "audio" in dataset[0]


def test_bad_caches(clips):
    dataset = ClipDataset(clips, targets=torch.arange(5))
    with pytest.raises(CacheError, match="clip-4"):
        dataset.attach(None, streams(clips[:4]))
    uneven = streams(clips) | {"clip-2": {"top": torch.zeros(4, 2)}}
    with pytest.raises(CacheError, match="differ in shape"):
        dataset.attach(uneven, None)
    with pytest.raises(CacheError, match="top"):
        dataset.attach(streams(clips) | {"clip-2": {"bottom": torch.zeros(3, 2)}}, None)


def test_labels_must_fit(clips):
    with pytest.raises(ValueError, match="either"):
        ClipDataset(clips)
    with pytest.raises(ValueError, match="either"):
        ClipDataset(clips, targets=torch.arange(5), notes=[])
    with pytest.raises(ValueError, match="5 clips"):
        ClipDataset(clips, targets=torch.arange(4))


def test_loader_keeps_the_samplers_order_with_workers(clips):
    dataset = ClipDataset(clips, targets=torch.arange(5))
    sampler = PairedBatchSampler(5, 3, seed=1, batches=4)
    expected = list(sampler)
    for workers in (0, 2):
        batches = list(clip_loader(dataset, 3, workers, sampler))
        assert [batch["target"].tolist() for batch in batches] == expected
