import json
import os
from dataclasses import replace

import pytest

from sonido_bench.errors import DataError
from sonido_bench.files import sha256_file
from sonido_bench.foundation.jukebox import checkpoint
from sonido_bench.foundation.jukebox.checkpoint import load_prior
from sonido_bench.foundation.jukebox.presets import PRIORS
from sonido_bench.foundation.jukebox.weight_files import source_sha256
from tests.foundation.jukebox.tiny_files import official, same


@pytest.fixture
def converted(monkeypatch):
    """The sources that were converted, not taken from the cache."""
    seen, convert = [], checkpoint._convert
    monkeypatch.setattr(checkpoint, "_convert", lambda path, *rest: seen.append(path) or convert(path, *rest))
    return seen


def entry(cache):
    (folder,) = cache.iterdir()
    return folder


def test_a_cache_is_made_once_and_stands_for_the_source(tmp_path, converted):
    path, cache = official(tmp_path / "prior.pth.tar", "tiny", half=True), tmp_path / "cache"
    first, again = (load_prior("tiny", path, 3, cache=cache) for _ in range(2))
    assert same(again, first)
    assert same(first, load_prior("tiny", path, 3))
    assert len(converted) == 2  # the second is the one without a cache
    folder = entry(cache)
    assert sorted(file.name for file in folder.iterdir()) == ["weights.json", "weights.safetensors"]
    record = json.loads((folder / "weights.json").read_text())
    assert (record["prior"], record["depth"]) == ("tiny", 3)
    assert record["source_sha256"] == sha256_file(path) == source_sha256(path) == source_sha256(folder)
    assert "Noncommercial" in record["licence"]
    assert (folder / "weights.safetensors").stat().st_size < path.stat().st_size
    path.unlink()
    assert same(load_prior("tiny", folder, 3), first)
    assert same(load_prior("tiny", folder, 3, cache=tmp_path / "unused"), first)
    assert not (tmp_path / "unused").exists()
    assert len(load_prior("tiny", folder, 1).music.transformer.blocks) == 1
    for depth, name in ((4, "tiny"), (3, "tiny_lyrics")):
        with pytest.raises(DataError, match=f"expected {depth} blocks of prior {name}, found 3 of tiny"):
            load_prior(name, folder, depth)


def test_another_source_depth_or_prior_is_cached_on_its_own(tmp_path, converted):
    cache, config = tmp_path / "cache", replace(PRIORS["tiny"], name="other")
    for number in (1, 2):
        path = official(tmp_path / f"{number}.pth.tar", "tiny", half=number == 2)
        for depth in (1, 2):
            load_prior("tiny", path, depth, cache=cache)
    load_prior(config, path, 2, cache=cache)
    assert len(converted) == len(list(cache.iterdir())) == 5


def truncate(file):
    file.write_bytes(file.read_bytes()[:-8])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("weights.safetensors", truncate),
        ("weights.safetensors", flip),
        ("weights.safetensors", lambda file: file.write_bytes(b"")),
        ("weights.safetensors", os.unlink),
        ("weights.json", truncate),
        ("weights.json", os.unlink),
        ("weights.json", lambda file: file.write_text("[]")),
        ("weights.json", lambda file: file.write_text('{"prior": 3}')),
        ("weights.json", lambda file: file.write_text("[" * 50_000)),
        ("weights.json", lambda file: file.write_text(file.read_text().replace('"schema": 1', '"schema": 2'))),
        ("weights.json", lambda file: file.write_text(file.read_text().replace('"depth": 2', '"depth": "2"'))),
    ],
)
def test_a_damaged_cache_is_made_again_and_is_no_source(tmp_path, converted, file, damage):
    path, cache = official(tmp_path / "prior.pth.tar", "tiny"), tmp_path / "cache"
    load_prior("tiny", path, 2, cache=cache)
    damage(entry(cache) / file)
    with pytest.raises(DataError):
        load_prior("tiny", entry(cache), 2)
    expected = load_prior("tiny", path, 2)
    converted.clear()
    assert same(load_prior("tiny", path, 2, cache=cache), expected)
    assert same(load_prior("tiny", path, 2, cache=cache), expected)
    assert converted == [path]


def test_a_forged_cache_is_refused(tmp_path):
    path, cache = official(tmp_path / "prior.pth.tar", "tiny"), tmp_path / "cache"
    load_prior("tiny", path, 2, cache=cache)
    record = entry(cache) / "weights.json"
    record.write_text(record.read_text().replace('"depth": 2', '"depth": 1'))
    with pytest.raises(DataError, match="names and shapes are not those of prior tiny"):
        load_prior("tiny", entry(cache), 1)
