import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sonido_bench.benchmark.config import ClassConfig
from sonido_bench.benchmark.instantiate import build
from sonido_bench.datamodules.effect_normalisation.averages import EffectAverages
from sonido_bench.datamodules.effect_normalisation.normaliser import EffectNormaliser
from sonido_bench.datamodules.effect_normalisation.stem_normalisation import EffectNormalisation, measure_averages
from sonido_bench.datamodules.mix_inputs import StemNormalisation
from sonido_bench.datamodules.rendered_stems import RenderedStemsDataModule
from sonido_bench.errors import ConfigError, DataError

RATE = 44_100
PATH = "sonido_bench.datamodules.effect_normalisation.stem_normalisation.EffectNormalisation"
SMALL = {"seconds": 1.5, "train_tracks": 2, "validation_tracks": 1, "test_tracks": 1, "batch_size": 1}


def noise(seed=0, seconds=1.0):
    return 0.1 * np.random.default_rng(seed).standard_normal((2, round(seconds * RATE))).astype(np.float32)


def averages(seed=0):
    return EffectAverages.measure([{"drums": noise(seed), "vocals": 0.3 * noise(seed + 1)}], RATE)


@pytest.fixture
def path(tmp_path):
    averages().save(tmp_path / "averages.json")
    return tmp_path / "averages.json"


def test_stems_are_those_of_the_normaliser_in_any_process(path):
    normalisation = EffectNormalisation(path, effects=["loudness", "reverb"], seed=3)
    assert isinstance(normalisation, StemNormalisation)
    audio = torch.from_numpy(noise(5))
    found = normalisation.apply("a song", "vocals", audio, RATE)
    expected = EffectNormaliser(averages(), ["loudness", "reverb"], 3).apply("vocals", audio.numpy(), "a song")
    assert torch.equal(found, torch.from_numpy(expected))
    assert found.dtype == torch.float32
    again = pickle.loads(pickle.dumps(normalisation))
    assert again.identity == normalisation.identity
    assert torch.equal(again.apply("a song", "vocals", audio, RATE), found)
    assert not torch.equal(again.apply("another song", "vocals", audio, RATE), found)


def test_the_identity_follows_what_decides_the_outcome_and_nothing_else(path, tmp_path):
    averages(seed=7).save(tmp_path / "other.json")
    (tmp_path / "moved.json").write_bytes(path.read_bytes())
    same = EffectNormalisation(path, effects=["loudness", "panning", "equaliser"])
    assert same.identity == EffectNormalisation(str(tmp_path / "moved.json")).identity
    others = [
        EffectNormalisation(tmp_path / "other.json"),
        EffectNormalisation(path, effects=["loudness"]),
        EffectNormalisation(path, seed=1),
    ]
    assert len({each.identity for each in [same, *others]}) == 4


def test_bad_input_is_refused(path, tmp_path):
    normalisation = EffectNormalisation(path)
    with pytest.raises(DataError, match="averages' 44100 Hz, found 48000 Hz"):
        normalisation.apply("a song", "drums", torch.from_numpy(noise()), 48_000)
    with pytest.raises(DataError, match="averages of the stem guitar"):
        normalisation.apply("a song", "guitar", torch.from_numpy(noise()), RATE)
    with pytest.raises(ValueError, match="finite audio of shape"):
        normalisation.apply("a song", "drums", torch.zeros(1, 1000), RATE)
    with pytest.raises(DataError, match="expected averages of effects"):
        EffectNormalisation(tmp_path / "missing.json")
    with pytest.raises(ConfigError, match="expected different effects"):
        EffectNormalisation(path, effects=["loudness", "loudness"])


def test_rendered_stems_are_normalised_by_the_averages_of_the_training_tracks(tmp_path):
    """As a configuration names it: class paths and a file."""
    options = {"target": "mix", **SMALL}
    dry = build(
        ClassConfig("sonido_bench.datamodules.rendered_stems.RenderedStemsDataModule", options), {"root": tmp_path}
    )
    dry.prepare_data()
    measured = measure_averages(dry.tracks("train"), dry.format)
    assert max(stem.tracks for stem in measured.stems.values()) == 2
    measured.save(tmp_path / "averages.json")
    chosen = {"class_path": PATH, "init_args": {"averages": str(tmp_path / "averages.json"), "effects": ["loudness"]}}
    config = ClassConfig(
        f"{RenderedStemsDataModule.__module__}.RenderedStemsDataModule", options | {"normalisation": chosen}
    )
    data = build(config, {"root": Path(tmp_path)})
    data.prepare_data()
    data.setup()
    batch, plain = next(iter(data.test_dataloader())), next(iter(dry.test_dataloader()))
    normalised = data.normalisation
    for name, stem, raw in zip(batch["stem_names"], batch["stems"][0], plain["stems"][0], strict=True):
        if raw.abs().max() > 0:
            assert torch.equal(stem, normalised.apply(batch["track"][0], name, raw, RATE))
    assert not torch.equal(batch["stems"], plain["stems"])
