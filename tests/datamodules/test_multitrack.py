import json
import pickle
from zlib import crc32

import numpy as np
import pytest
import soundfile
import torch

from sonido_bench.benchmark.config import ClassConfig
from sonido_bench.benchmark.instantiate import build
from sonido_bench.clips import Clip
from sonido_bench.datamodules.multitrack import MultitrackDataModule
from sonido_bench.datamodules.stem_augmentation import UMX
from sonido_bench.errors import CacheError, ConfigError, DataError
from sonido_bench.features.cache import FeatureCache
from sonido_bench.foundation.logmel import LogMel

RATE = 8000
OPTIONS = {"sample_rate": RATE, "segment_seconds": 0.5, "chunk_seconds": 1.0, "batch_size": 2}


def write(path, seconds, channels=2, rate=RATE, level=0.2, subtype="FLOAT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(crc32("/".join(path.parts[-2:]).encode()))
    soundfile.write(path, level * rng.uniform(-1, 1, (round(seconds * rate), channels)), rate, subtype=subtype)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Tracks with a silent stem, an odd length, a mono stem, another sample rate, a short stem and an absent one."""
    root = tmp_path_factory.mktemp("multitrack")
    for number in range(4):
        for stem in ("bass", "vocals"):
            write(root / "train" / f"plain {number}" / f"{stem}.wav", 2.0)
        write(root / "train" / f"plain {number}" / "mixture.wav", 2.0)
    odd = root / "train" / "odd"
    write(odd / "bass.wav", 1.70013, channels=1)
    write(odd / "vocals.flac", 1.70013, rate=11025, subtype="PCM_16")
    write(root / "validation" / "silent" / "vocals.wav", 2.3, level=0)
    write(root / "validation" / "silent" / "bass.wav", 1.1)
    write(root / "validation" / "silent" / "mixture.wav", 2.3)
    write(root / "test" / "instrumental" / "bass.wav", 3.7)
    write(root / "test" / "instrumental" / "mixture.wav", 3.7)
    (root / "test" / "instrumental" / "notes.txt").write_text("no audio")
    return root


def ready(root, **options):
    data = MultitrackDataModule(root, **(OPTIONS | options))
    data.prepare_data()
    data.setup()
    return data


def test_splits_and_stems(root):
    data = ready(root)
    assert data.format.names == ("bass", "vocals")
    assert sorted(track.name for track in data.tracks("train")) == ["odd", *(f"plain {number}" for number in range(4))]
    assert [track.name for track in data.tracks("validation")] == ["silent"]
    assert [track.name for track in data.tracks("test")] == ["instrumental"]
    assert data.verify() == []
    assert data.describe()["prepared"] == "yes"
    assert data.describe()["train"] == 5


def test_training_batches(root):
    data = ready(root)
    batches = list(data.train_dataloader())
    assert sum(len(batch["clip"]) for batch in batches) == 4 * 4 + 3 + 1  # 19 segments; the last batch is filled up
    for batch in batches:
        assert batch["stems"].shape == (2, 2, 2, 4000)
        assert batch["mixture"].shape == (2, 2, 4000)
        assert batch["stems"].dtype == torch.float32
        assert (batch["sample_rate"], batch["seconds"], batch["augmented"]) == (RATE, 0.5, False)
        assert batch["audio"] is batch["mixture"]
        assert batch["stem_names"] == ("bass", "vocals")


def test_a_clip_is_where_it_says(root):
    batch = next(iter(ready(root, num_workers=2).train_dataloader()))
    for place, (track, start) in enumerate(zip(batch["track"], batch["start"], strict=True)):
        if track == "odd":
            continue
        for name, audio in [
            *zip(batch["stem_names"], batch["stems"][place], strict=True),
            ("mixture", batch["mixture"][place]),
        ]:
            path = root / "train" / track / f"{name}.wav"
            expected, _ = soundfile.read(path, 4000, round(start * RATE), dtype="float32")
            assert torch.equal(audio, torch.from_numpy(expected.T.copy()))


def test_odd_files(root):
    track = next(track for track in ready(root).tracks("train") if track.name == "odd")
    assert track.samples(RATE) == 13_602  # vocals: 18744 frames at 11025 Hz, more than the 13601 of the bass
    stems, mixture = track.read(0, 13_602, ready(root).format)
    assert torch.equal(stems[0, 0], stems[0, 1])  # mono
    assert stems[1].std() > 0.05  # another rate
    assert torch.equal(mixture, stems.sum(dim=0))  # no mixture file


def test_long_tracks_come_in_chunks(root):
    data = ready(root)
    chunks = list(data.test_dataloader())
    assert [batch["start"] for batch in chunks] == [[0.0, 1.0], [2.0], [3.0]]
    assert [batch["stems"].shape[-1] for batch in chunks] == [8000, 8000, 5600]
    assert all(not batch["stems"][:, 1].any() for batch in chunks)  # no vocals
    joined = torch.cat([item for batch in chunks for item in batch["mixture"]], dim=1)
    expected, _ = soundfile.read(root / "test" / "instrumental" / "mixture.wav", dtype="float32")
    assert torch.equal(joined, torch.from_numpy(expected.T.copy()))
    whole = list(ready(root, chunk_seconds=None).test_dataloader())
    assert [batch["clip"] for batch in whole] == [["instrumental"]]


def test_a_short_stem_is_followed_by_silence(root):
    batches = list(ready(root).val_dataloader())
    assert [batch["seconds"] for batch in batches] == [1.0, 1.3]
    bass = torch.cat([item[0] for batch in batches for item in batch["stems"]], dim=1)
    assert bass[:, :8800].abs().min(dim=0).values.max() > 0
    assert not bass[:, 8800:].any()


def test_order_follows_from_seed_and_epoch(root):
    orders = []
    for seed in (3, 3, 4):
        loader = ready(root, seed=seed, batches_per_epoch=4).train_dataloader()
        loader.batch_sampler.set_epoch(2)
        orders.append([batch["clip"] for batch in loader])
    assert orders[0] == orders[1] != orders[2]
    assert all(len(clips) == 2 for clips in orders[0])


def test_fractions_are_nested(root):
    some, every = ([track.name for track in ready(root, fraction=share).tracks("train")] for share in (0.4, 1.0))
    assert len(some) == 2
    assert every[:2] == some


def test_cached_features(root, tmp_path):
    data = ready(root, stems=["bass"])
    plain = [clip for clip in data._stem_clips("train") if clip.track.mixture]
    clips = [clip.feature_clip for clip in plain] + data.clips("validation") + data.clips("test")
    assert len({clip.name for clip in clips}) == len(clips)
    assert all(isinstance(clip, Clip) for clip in clips)
    extractor, cache = LogMel(sample_rate=RATE, n_fft=512, hop_length=256, num_mels=16), FeatureCache(tmp_path)
    assert cache.extract(extractor, clips) == len(clips)
    streams = cache.streams(extractor.fingerprint(), clips)
    data.attach(None, streams)
    batch = next(iter(data.test_dataloader()))
    assert "audio" not in batch
    online = extractor.extract(batch["mixture"].mean(dim=1))
    for name, values in batch["features"].items():
        torch.testing.assert_close(values, online[name], atol=2e-3, rtol=2e-3)
    with pytest.raises(CacheError, match="the cache has no 'odd @"):
        data.train_dataloader()
    data.attach(None, None)
    assert "audio" in next(iter(data.test_dataloader()))


def test_files_of_a_higher_rate_are_cached_to_their_end(tmp_path):
    rng = np.random.default_rng(0)
    for place, frames in enumerate((96_000 + 1, 96_000 + 11)):  # both 8001 samples at 8 kHz
        for name in ("bass", "mixture"):
            path = tmp_path / "data" / "test" / f"song {place}" / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, rng.uniform(-0.5, 0.5, (frames, 2)), 96_000)
    write(tmp_path / "data" / "train" / "song" / "bass.wav", 1.0)
    data = ready(tmp_path / "data", chunk_seconds=None)
    clips = data.clips("test")
    extractor, cache = LogMel(sample_rate=16_000, n_fft=512, hop_length=4, num_mels=16), FeatureCache(tmp_path)
    assert cache.extract(extractor, clips) == 2
    dataset = data._dataset("test")
    dataset.attach(None, cache.streams(extractor.fingerprint(), clips))
    (batch,) = data.test_dataloader()
    assert batch["mixture"].shape == (2, 2, 8001)
    (stream,) = batch["features"].values()
    assert stream.shape[1] == pytest.approx(4000, abs=2)
    dataset.attach(None, {clip.name: {"x": torch.zeros(3 + 2 * place, 1)} for place, clip in enumerate(clips)})
    with pytest.raises(CacheError, match=r"have \[3, 5\] frames"):
        next(iter(data.test_dataloader()))


def test_without_a_mixture_there_is_nothing_to_cache(root):
    with pytest.raises(ConfigError, match="track odd has no file whose features could be cached"):
        ready(root).clips("train")


def test_augmented_batches_are_recognised_and_no_cache_serves_them(root):
    data = ready(root, augmentation=UMX)
    batch = next(iter(data.train_dataloader()))
    assert batch["augmented"] is True
    torch.testing.assert_close(batch["audio"], batch["stems"].sum(dim=1))
    assert not next(iter(data.val_dataloader()))["augmented"]
    for refused in (lambda: data.clips("train"), lambda: data.attach(None, {})):
        with pytest.raises(ConfigError, match=r"foundation model must run online.*augmentation: null"):
            refused()


def test_mixing(tmp_path):
    folder = tmp_path / "songs"
    for number in range(3):
        for name in ("bass", "vocals"):
            write(folder / f"song {number}" / f"{name}.wav", 1.0)
            write(folder / f"song {number}" / f"{name}_normalized.wav", 1.0)
        write(folder / f"song {number}" / "mixture.wav", 1.0)
    data = ready(folder, target="mix", normalised=True)
    assert data.format.names == ("bass", "vocals")
    assert [len(data.tracks(split)) for split in ("train", "validation", "test")] == [1, 1, 1]
    batch = next(iter(data.test_dataloader()))
    name = batch["track"][0]
    vocals, _ = soundfile.read(folder / name / "vocals_normalized.wav", dtype="float32")
    assert torch.equal(batch["stems"][0, 1], torch.from_numpy(vocals.T.copy()))
    torch.testing.assert_close(batch["audio"], batch["stems"].sum(dim=1).mean(dim=1, keepdim=True))
    assert ready(folder, target="mix").format.names == ("bass", "vocals")
    with pytest.raises(ConfigError, match="downmix"):
        data.clips("test")


def test_mixing_needs_mixes(root):
    with pytest.raises(DataError, match="track 'odd' has no mixture to learn mixing from"):
        ready(root, target="mix")


def test_undivided_folders_are_divided_by_name(tmp_path):
    for number in range(20):
        write(tmp_path / f"song {number}" / "bass.wav", 0.1)
    data = ready(tmp_path, validation_share=0.2, test_share=0.3)
    names = {split: {track.name for track in data.tracks(split)} for split in ("train", "validation", "test")}
    assert [len(found) for found in names.values()] == [10, 4, 6]
    assert len(set.union(*names.values())) == 20
    write(tmp_path / "song 20" / "bass.wav", 0.1)
    after = {track.name for track in ready(tmp_path, validation_share=0.2, test_share=0.3).tracks("test")}
    assert len(after & names["test"]) >= 4  # a new track moves few others


def test_the_index_is_kept_and_renewed(tmp_path):
    for number in range(3):
        write(tmp_path / f"song {number}" / "bass.wav", 0.5)
    unprepared = MultitrackDataModule(tmp_path, **OPTIONS)
    with pytest.raises(DataError, match="not indexed; prepare the data first"):
        unprepared.setup()
    assert unprepared.describe()["prepared"] == "no"
    jobs = unprepared.preparation_jobs()
    assert [pickle.loads(pickle.dumps(job)) for job in jobs] == jobs
    data = ready(tmp_path)
    assert data.preparation_jobs() == []
    before = data.sha256
    row = next((tmp_path / ".sonido_bench").rglob("*.json"))
    assert set(next(iter(json.loads(row.read_text()).values()))) >= {"frames", "sha256", "size"}
    write(tmp_path / "song 0" / "bass.wav", 0.75)
    again = MultitrackDataModule(tmp_path, **OPTIONS)
    assert len(again.preparation_jobs()) == 1
    again.prepare_data()
    assert again.sha256 != before
    row.write_text("{")
    assert len(MultitrackDataModule(tmp_path, **OPTIONS).preparation_jobs()) == 1


@pytest.mark.parametrize("fault", ["truncated", "nan", "text", "empty"])
def test_a_bad_file_is_named_before_training(tmp_path, fault):
    for number in range(3):
        write(tmp_path / f"song {number}" / "bass.wav", 0.5)
    bad = tmp_path / "song 1" / "bass.wav"
    if fault == "truncated":
        bad.write_bytes(bad.read_bytes()[:5000])
    elif fault == "nan":
        soundfile.write(bad, np.full((100, 2), np.nan), RATE, subtype="FLOAT")
    else:
        bad.write_bytes(b"" if fault == "empty" else b"no audio at all")
    data = MultitrackDataModule(tmp_path, **OPTIONS)
    with pytest.raises(DataError, match=r"song 1/bass\.wav: .*(fetch|export) it"):
        data.prepare_data()
    assert len(data.verify()) == 1


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match="expected a folder of multitracks, found none"):
        MultitrackDataModule(tmp_path / "absent")
    with pytest.raises(DataError, match="found none in train"):
        MultitrackDataModule(tmp_path)
    write(tmp_path / "train" / "a" / "bass.wav", 0.1)
    write(tmp_path / "train" / "a" / "bass.flac", 0.1, subtype="PCM_16")
    with pytest.raises(DataError, match=r"both bass\.flac and bass\.wav"):
        MultitrackDataModule(tmp_path)
    (tmp_path / "train" / "a" / "bass.flac").unlink()
    write(tmp_path / "test" / "a" / "bass.wav", 0.1)
    with pytest.raises(DataError, match="two tracks are called 'a'"):
        MultitrackDataModule(tmp_path).prepare_data()
    with pytest.raises(DataError, match=r"expected audio files of vocals; found bass"):
        MultitrackDataModule(tmp_path, ["vocals"]).prepare_data()


def test_a_folder_that_cannot_be_written_needs_an_index_elsewhere(tmp_path):
    write(tmp_path / "train" / "a" / "bass.wav", 0.1)
    (tmp_path / ".sonido_bench").write_text("in the way")
    with pytest.raises(DataError, match="set `index` to a folder that can be written"):
        MultitrackDataModule(tmp_path).prepare_data()
    MultitrackDataModule(tmp_path, index=tmp_path / "elsewhere").prepare_data()


def test_tracks_shorter_than_a_segment_leave_no_clip(tmp_path):
    write(tmp_path / "train" / "a" / "bass.wav", 0.4)
    with pytest.raises(ConfigError, match="lower segment_seconds"):
        ready(tmp_path).train_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tags"}, "target must be one of stems, mix"),
        ({"fraction": 0.0}, "fraction must be in"),
        ({"batch_size": 0}, "batch_size"),
        ({"segment_seconds": 0.0}, "must last 0.01 s or longer"),
        ({"chunk_seconds": float("nan")}, "must last 0.01 s or longer"),
        ({"validation_share": 0.6, "test_share": 0.5}, "leave some tracks"),
        ({"stems": ["bass", "bass"]}, "names of their own"),
    ],
)
def test_wrong_arguments(root, options, message):
    with pytest.raises(ConfigError, match=message):
        MultitrackDataModule(root, **(OPTIONS | options))


def test_it_is_built_from_a_benchmark_file(root):
    arguments = {"root": str(root), "augmentation": {"gain_probability": 1.0, "remix_group": 4}, "stems": ["bass"]}
    config = ClassConfig("sonido_bench.datamodules.multitrack.MultitrackDataModule", arguments)
    data = build(config, {"target": "stems", "fraction": 0.5, "seed": 1, "batch_size": 4, "batches_per_epoch": 2})
    assert data.augmentation.remix_group == 4
    with pytest.raises(ConfigError, match="remix"):
        build(ClassConfig(config.class_path, {**arguments, "augmentation": {"remixing": 4}}), {})
