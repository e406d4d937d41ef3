import multiprocessing
import os
import pickle
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sonido_bench.clips import Clip
from sonido_bench.errors import CacheError, DataError
from sonido_bench.features.cache import FeatureCache
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec
from sonido_bench.files import sha256_file
from sonido_bench.foundation.chroma import Chroma
from sonido_bench.foundation.logmel import LogMel

CARD = ExtractorCard("scaled", "For tests.", "Apache-2.0", "none", "None.")


class Scaled(Extractor):
    """The audio's level in blocks of 100 samples, times a factor."""

    card = CARD

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.batches = []
        self.spec = FeatureSpec(8000, {"level": StreamSpec(2, 100), "peak": StreamSpec(1, 200)})

    def forward(self, audio):
        self.batches.append(len(audio))
        blocks = audio.abs().unflatten(1, (-1, 100))
        level = torch.stack([blocks.mean(2), blocks.std(2)], dim=-1) * self.factor
        return {"level": level, "peak": audio.abs().unflatten(1, (-1, 200)).amax(2)[..., None]}


def make_clips(folder, count=10, seconds=0.5):
    clips = []
    for index in range(count):
        path = folder / f"{index}.wav"
        soundfile.write(path, np.random.default_rng(index).uniform(-0.5, 0.5, 8000), 8000, subtype="FLOAT")
        clips.append(Clip(f"clip{index}", path, sha256_file(path), 0.25, seconds))
    return clips


@pytest.fixture
def clips(tmp_path):
    return make_clips(tmp_path)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache")


def shards(cache):
    """Finished shards: a hidden one is still being written."""
    return sorted(path for path in cache.root.rglob("*.safetensors") if not path.name.startswith("."))


def expected(extractor, clip):
    audio, _ = soundfile.read(clip.path, dtype="float32")
    start = round(clip.start * 8000)
    wanted = torch.from_numpy(audio[start : start + round(clip.seconds * 8000)])
    return {name: stream[0] for name, stream in extractor.extract(wanted[None]).items()}


def test_what_is_read_is_what_was_extracted(cache, clips):
    extractor = Scaled()
    assert cache.extract(extractor, clips, batch_size=4, clips_per_shard=6) == 10
    streams = cache.streams(extractor.fingerprint(), clips)
    assert list(streams) == [clip.name for clip in clips]
    for clip in clips:
        assert streams[clip.name].keys() == {"level", "peak"}
        for name, stream in expected(extractor, clip).items():
            found = streams[clip.name][name]
            assert found.dtype == torch.float32
            assert found.shape == stream.shape
            assert torch.equal(found, stream.half().float())


def test_float32_keeps_every_bit(tmp_path, clips):
    cache, extractor = FeatureCache(tmp_path / "cache", torch.float32), Scaled(1e6)
    cache.extract(extractor, clips)
    found = cache.streams(extractor.fingerprint(), clips)["clip3"]["level"]
    assert torch.equal(found, expected(extractor, clips[3])["level"])
    found.zero_()  # a copy: the shard is not harmed
    assert cache.streams(extractor.fingerprint(), clips)["clip3"]["level"].abs().sum() > 0


def test_only_what_is_missing_is_extracted(cache, clips):
    extractor = Scaled()
    assert cache.extract(extractor, clips[:4]) == 4
    assert cache.missing(extractor.fingerprint(), clips) == clips[4:]
    assert cache.extract(extractor, clips) == 6
    assert cache.extract(extractor, clips) == 0
    assert sum(extractor.batches) == 10


def test_clips_of_equal_length_share_batches(cache, clips):
    mixed = [replace(clip, seconds=0.5 if index % 2 else 0.4) for index, clip in enumerate(clips)]
    extractor = Scaled()
    cache.extract(extractor, mixed, batch_size=5)
    assert extractor.batches == [5, 5]
    assert cache.streams(extractor.fingerprint(), mixed)["clip0"]["level"].shape == (32, 2)


def test_same_content_under_two_names_is_extracted_once(cache, clips):
    extractor = Scaled()
    twin = replace(clips[0], name="twin", path=clips[0].path.parent / "elsewhere.wav")
    assert cache.extract(extractor, [clips[0], replace(clips[0], name="twin")]) == 1
    streams = cache.streams(extractor.fingerprint(), [clips[0], twin])
    assert torch.equal(streams["twin"]["level"], streams["clip0"]["level"])


fields = st.fixed_dictionaries(
    {
        "fingerprint": st.sampled_from(["a" * 64, "b" * 64]),
        "sha256": st.sampled_from(["c" * 64, "d" * 64]),
        "start": st.floats(0, 2),
        "seconds": st.floats(0.1, 2),
        "dtype": st.sampled_from([torch.float16, torch.float32]),
    }
)


@given(fields, fields)
def test_keys_are_equal_exactly_when_all_that_counts_is(first, second):
    def key(values):
        clip = Clip("any", Path("any"), values["sha256"], values["start"], values["seconds"])
        return FeatureCache(Path("unused"), values["dtype"]).key(values["fingerprint"], clip)

    assert (key(first) == key(second)) == (first == second)
    assert key(first) == key(dict(first))


def test_another_extractor_has_another_cache(cache, clips):
    cache.extract(Scaled(), clips)
    assert cache.missing(Scaled(2.0).fingerprint(), clips) == clips
    with pytest.raises(CacheError, match="10 are missing"):
        cache.streams(Scaled(2.0).fingerprint(), clips)


@pytest.mark.parametrize("extractor", [LogMel(8000, pool=4, num_mels=32), Chroma(8000)], ids=["logmel", "chroma"])
def test_estimate_is_near_the_truth(cache, clips, extractor):
    cache.extract(extractor, clips)
    true = sum(path.stat().st_size for path in shards(cache))
    assert true == pytest.approx(cache.estimate_bytes(extractor.spec, clips), rel=0.2)


def test_progress_is_reported(cache, clips):
    seen = []
    cache.extract(Scaled(), clips, clips_per_shard=4, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert len(seen) == 3


def test_streams_can_be_pickled_for_workers(cache, clips):
    extractor = Scaled()
    cache.extract(extractor, clips)
    streams = cache.streams(extractor.fingerprint(), clips)
    before = streams["clip1"]["peak"]
    assert torch.equal(pickle.loads(pickle.dumps(streams))["clip1"]["peak"], before)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "foreign"])
def test_damaged_shard_is_reported_and_made_again(cache, clips, damage):
    extractor = Scaled()
    cache.extract(extractor, clips, clips_per_shard=5)
    victim = shards(cache)[0]
    streams = cache.streams(extractor.fingerprint(), clips)
    assert len([streams[clip.name] for clip in clips]) == 10
    whole = victim.read_bytes()
    if damage == "foreign":
        save_file({"a": torch.zeros(3)}, victim)
    else:
        victim.write_bytes({"truncated": whole[:-7], "empty": b"", "garbage": b"x" * len(whole)}[damage])
    os.utime(victim, (1, 1))
    lost = [clip for clip in clips if streams._places[clip.name][0] == victim]
    assert len(lost) == 5
    with pytest.raises(CacheError, match=rf"{victim.name}: damaged shard .* delete it and extract again"):
        streams[lost[0].name]
    with pytest.warns(UserWarning, match=rf"ignored .*{victim.name}.*delete it"):
        assert cache.missing(extractor.fingerprint(), clips) == lost
    with pytest.warns(UserWarning, match="ignored"):
        assert cache.extract(extractor, clips) == 5
    victim.unlink()
    assert len(cache.streams(extractor.fingerprint(), clips)) == 10


def test_a_flipped_bit_is_found(cache, clips):
    extractor = Scaled()
    cache.extract(extractor, clips)
    path = shards(cache)[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    streams = cache.streams(extractor.fingerprint(), clips)
    damaged = []
    for clip in clips:
        try:
            assert streams[clip.name]
        except CacheError as error:
            damaged.append(str(error))
    assert len(damaged) == 1
    assert "checksum" in damaged[0]
    assert path.name in damaged[0]


def test_removed_shard_is_an_error(cache, clips):
    extractor = Scaled()
    cache.extract(extractor, clips)
    streams = cache.streams(extractor.fingerprint(), clips)
    shards(cache)[0].unlink()
    with pytest.raises(CacheError, match="was removed"):
        streams["clip0"]


class Undefined(Scaled):
    def forward(self, audio):
        return {name: stream * torch.nan for name, stream in super().forward(audio).items()}


@pytest.mark.parametrize("extractor", [Scaled(1e7), Undefined()])
def test_values_that_do_not_fit_are_refused(cache, clips, extractor):
    with pytest.raises(CacheError, match="NaN or values beyond"):
        cache.extract(extractor, clips)
    assert shards(cache) == []


def test_other_types_are_refused(tmp_path):
    with pytest.raises(CacheError, match="float16, bfloat16 or float32"):
        FeatureCache(tmp_path, torch.int8)


def test_damaged_audio_is_named(cache, clips):
    clips[2].path.write_bytes(clips[2].path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"2\.wav: expected 0.5 s"):
        cache.extract(Scaled(), clips)


def test_folder_that_cannot_be_written_is_an_error(tmp_path, clips):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot write the feature cache"):
        FeatureCache(tmp_path / "file" / "cache").extract(Scaled(), clips)


def test_too_little_space_is_seen_before_the_start(cache, clips, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    extractor = Scaled()
    with pytest.raises(CacheError, match="make room"):
        cache.extract(extractor, clips)
    assert extractor.batches == []


class Slow(Scaled):
    def forward(self, audio):
        time.sleep(0.05)
        return super().forward(audio)


def write(cache, clips, output, file_limit=None):
    """Extract in a process of its own, one clip per shard, with a limit on the size of files."""
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    try:
        output.put(cache.extract(Slow(), clips, batch_size=1, clips_per_shard=1))
    except CacheError as error:
        output.put(str(error))


def start_writer(*arguments):
    context = multiprocessing.get_context("fork")
    output = context.Queue()
    process = context.Process(target=write, args=(arguments[0], arguments[1], output, *arguments[2:]))
    process.start()
    return process, output


def test_killed_writer_leaves_whole_shards_and_the_next_one_resumes(cache, clips):
    process, _ = start_writer(cache, clips)
    while len(shards(cache)) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    extractor = Slow()
    missing = cache.missing(extractor.fingerprint(), clips)
    assert 0 < len(missing) <= 7
    assert cache.extract(extractor, clips) == len(missing) == sum(extractor.batches)
    assert all(load_file(path) for path in shards(cache))
    found = cache.streams(extractor.fingerprint(), clips)
    for clip in clips:
        assert torch.equal(found[clip.name]["level"], expected(extractor, clip)["level"].half().float())


def test_two_writers_at_once_give_one_whole_cache(cache, clips):
    writers = [start_writer(cache, clips) for _ in range(2)]
    counts = [output.get(timeout=60) for _, output in writers]
    for process, _ in writers:
        process.join()
    assert 10 <= sum(counts) <= 20
    extractor = Slow()
    found = cache.streams(extractor.fingerprint(), clips)
    for clip in clips:
        assert torch.equal(found[clip.name]["level"], expected(extractor, clip)["level"].half().float())


def test_full_disk_is_an_error_and_leaves_nothing_half_written(cache, clips):
    process, output = start_writer(cache, clips, 300)
    assert "cannot write the feature cache" in output.get(timeout=60)
    process.join()
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []


def test_leftovers_of_dead_writers_are_swept_out(cache, clips):
    extractor = Scaled()
    cache.extract(extractor, clips[:5])
    folder = shards(cache)[0].parent
    old, new = folder / ".dead.safetensors", folder / ".alive.safetensors"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    cache.extract(extractor, clips)
    assert not old.exists()
    assert new.exists()
