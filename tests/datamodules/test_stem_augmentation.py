import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch

from sonido_bench.datamodules.stem_augmentation import (
    FXNORM,
    HTDEMUCS,
    UMX,
    AugmentedStems,
    StemAugmentationConfig,
)
from sonido_bench.datamodules.stems.audio_file import examine
from sonido_bench.datamodules.stems.batch import StemFormat
from sonido_bench.datamodules.stems.loaders import VisitSampler, training_loader
from sonido_bench.datamodules.stems.track import StemTrack
from sonido_bench.errors import ConfigError

RATE = 8000
FORMAT = StemFormat(("a", "b", "c"), "stems", RATE, 2)
NOTHING = StemAugmentationConfig()
TRACKS = 5
LENGTH = 4 * RATE


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Samples tell where they are from: left is 0.1 (track + 1) + 0.01 stem, right the time in the track (0 to 1)."""
    folder = tmp_path_factory.mktemp("tracks")
    made = []
    for track in range(TRACKS):
        stems = {}
        for place, name in enumerate(FORMAT.names):
            audio = np.stack([np.full(LENGTH, 0.1 * (track + 1) + 0.01 * place), np.linspace(0, 1, LENGTH)], 1)
            soundfile.write(folder / f"{track}{name}.wav", audio, RATE, subtype="FLOAT")
            stems[name] = (examine(folder / f"{track}{name}.wav"),)
        soundfile.write(folder / f"{track}.wav", np.full((LENGTH, 2), 0.9), RATE, subtype="FLOAT")
        made.append(StemTrack(f"track {track}", stems, examine(folder / f"{track}.wav")))
    return made


def augmented(tracks, config, seed=0, format=FORMAT, seconds=0.5):
    return AugmentedStems(tracks, format, seconds, config, seed)


def origin(stem):
    """Track and time (s) at which a stem's unchanged segment starts."""
    return round(float(stem[0, 0]) * 10 - 1.05), float(stem[1, 0]) * (LENGTH - 1) / RATE


@pytest.mark.parametrize("config", [NOTHING, UMX, HTDEMUCS], ids=["nothing", "umx", "htdemucs"])
def test_a_batch_is_a_function_of_seed_and_step(tracks, config):
    batches = [augmented(tracks, config).__getitems__(list(range(first, first + 4))) for first in (0, 4, 8)]
    other = augmented(tracks, config)
    for step in (2, 0, 1):
        assert torch.equal(other.__getitems__(list(range(4 * step, 4 * step + 4)))["stems"], batches[step]["stems"])
    changed = augmented(tracks, config, seed=1).__getitems__([0, 1, 2, 3])
    assert not torch.equal(changed["stems"], batches[0]["stems"])


@pytest.mark.parametrize("config", [NOTHING, UMX, HTDEMUCS], ids=["nothing", "umx", "htdemucs"])
def test_what_a_batch_holds(tracks, config):
    batch = augmented(tracks, config).__getitems__([0, 1, 2, 3])
    assert batch["stems"].shape == (4, 3, 2, 4000)
    assert batch["stems"].dtype == torch.float32
    torch.testing.assert_close(batch["mixture"], batch["stems"].sum(dim=1))
    assert batch["audio"] is batch["mixture"]  # what the foundation model hears is what was made
    assert batch["augmented"] is True
    assert (batch["sample_rate"], batch["seconds"]) == (RATE, 0.5)
    assert len(batch["clip"]) == len(set(batch["clip"])) == 4


def test_without_changes_stems_are_stretches_of_one_track(tracks):
    data = augmented(tracks, NOTHING)
    for visit in range(6):
        batch = data[visit]
        origins = [origin(stem) for stem in batch["stems"][0]]
        assert len({track for track, _ in origins}) == 1
        assert batch["track"] == [f"track {origins[0][0]}"]
        assert max(start for _, start in origins) - min(start for _, start in origins) < 1e-3
        assert 0 <= origins[0][1] <= 3.5 + 1e-3


def test_each_track_comes_once_in_a_turn(tracks):
    data = augmented(tracks, NOTHING)
    turns = [[data[TRACKS * turn + place]["track"][0] for place in range(TRACKS)] for turn in range(3)]
    assert all(sorted(turn) == [f"track {track}" for track in range(TRACKS)] for turn in turns)
    assert turns[0] != turns[1] or turns[1] != turns[2]


def test_random_tracks(tracks):
    data = augmented(tracks, StemAugmentationConfig(random_tracks=True))
    origins = np.array([[origin(stem) for stem in data[visit]["stems"][0]] for visit in range(200)])
    drawn = origins[..., 0].astype(int)
    # Independent and uniform, with replacement: all three of one track in 1/25 of the visits.
    assert np.bincount(drawn.flatten(), minlength=TRACKS) == pytest.approx(np.full(TRACKS, 120), abs=40)
    assert np.mean((drawn == drawn[:, :1]).all(axis=1)) == pytest.approx(1 / 25, abs=0.04)
    starts = origins[..., 1]
    assert np.abs(np.corrcoef(starts.T)[np.triu_indices(3, 1)]).max() < 0.25
    assert starts.min() < 0.2
    assert starts.max() > 3.3


def test_shifts(tracks):
    data = augmented(tracks, StemAugmentationConfig(shift_seconds=1.0))
    starts = np.array([[origin(stem)[1] for stem in data[visit]["stems"][0]] for visit in range(60)])
    spread = starts.max(axis=1) - starts.min(axis=1)
    assert 0.5 < spread.max() <= 1 + 1e-3
    assert starts.max() <= 3.5 + 1e-3  # never beyond the track's end


def test_gains_swaps_and_signs(tracks):
    plain, data = augmented(tracks, NOTHING), {}
    for name, config in {
        "gain": StemAugmentationConfig(gain_probability=1.0),
        "swap": StemAugmentationConfig(swap_probability=0.5),
        "sign": StemAugmentationConfig(sign_probability=0.5),
    }.items():
        data[name] = augmented(tracks, config)
    gains, swaps, signs = [], [], []
    for visit in range(100):
        stems = plain[visit]["stems"][0]
        gained, swapped, signed = (data[name][visit]["stems"][0] for name in ("gain", "swap", "sign"))
        gains += (gained[:, 0, 0] / stems[:, 0, 0]).tolist()
        torch.testing.assert_close(gained, stems * (gained[:, 0, 0] / stems[:, 0, 0])[:, None, None])
        for stem, other, turned in zip(stems, swapped, signed, strict=True):
            swaps.append(not torch.equal(stem, other))
            assert torch.equal(other, stem.flip(0) if swaps[-1] else stem)
            signs.append(not torch.equal(stem, turned))
            assert torch.equal(turned, -stem if signs[-1] else stem)
    assert 0.25 <= min(gains) < 0.3
    assert 1.2 < max(gains) <= 1.25
    assert np.mean(gains) == pytest.approx(0.75, abs=0.06)
    assert np.mean(swaps) == pytest.approx(0.5, abs=0.1)
    assert np.mean(signs) == pytest.approx(0.5, abs=0.1)


def test_mono_is_never_swapped(tracks):
    mono = StemFormat(FORMAT.names, "stems", RATE, 1)
    swapped = augmented(tracks, StemAugmentationConfig(swap_probability=1.0), format=mono)
    assert torch.equal(swapped[3]["stems"], augmented(tracks, NOTHING, format=mono)[3]["stems"])


def test_remix_permutes_within_groups(tracks):
    visits = list(range(8))
    plain = augmented(tracks, NOTHING).__getitems__(visits)["stems"]
    data = augmented(tracks, StemAugmentationConfig(remix_group=4))
    mixed = data.__getitems__(visits)
    moved = 0
    for group in (slice(0, 4), slice(4, 8)):
        for place in range(3):
            before, after = plain[group, place], mixed["stems"][group, place]
            found = [[torch.equal(one, other) for other in before].index(True) for one in after]
            assert sorted(found) == [0, 1, 2, 3]
            moved += found != [0, 1, 2, 3]
    assert moved >= 3
    torch.testing.assert_close(mixed["mixture"], mixed["stems"].sum(dim=1))
    with pytest.raises(ConfigError, match="batch_size must be a multiple of remix_group, got 6 and 4"):
        training_loader(data, 6, 0, 0, None)


def test_pitch_and_tempo(tmp_path):
    """One tone per stem: their ratio stays, their pitch is moved by whole semitones."""
    time = np.arange(3 * RATE) / RATE
    stems = {}
    for name, frequency in (("low", 400), ("high", 600)):
        soundfile.write(tmp_path / f"{name}.wav", 0.3 * np.sin(2 * np.pi * frequency * time), RATE, subtype="FLOAT")
        stems[name] = (examine(tmp_path / f"{name}.wav"),)
    config = StemAugmentationConfig(repitch_probability=0.5)
    data = augmented(
        [StemTrack("tones", stems)], config, format=StemFormat(("low", "high"), "stems", RATE, 1), seconds=1
    )
    moved = []
    for visit in range(40):
        audio = data[visit]["stems"][0, :, 0].numpy()
        assert audio.shape == (2, RATE)
        spectra = np.abs(np.fft.rfft(audio * np.hanning(RATE), 2**16))
        low, high = np.argmax(spectra, axis=1) * RATE / 2**16
        assert high / low == pytest.approx(1.5, rel=5e-3)
        moved.append(12 * np.log2(low / 400))
        assert np.abs(audio[:, -200:]).max() > 0.1  # filled to the end
    assert np.abs(np.array(moved) - np.round(moved)).max() < 0.1
    assert set(np.round(moved).astype(int)) == {-2, -1, 0, 1, 2}
    assert np.mean(np.round(moved) != 0) == pytest.approx(0.5 * 4 / 5, abs=0.2)


def test_a_track_shorter_than_a_segment_is_followed_by_zeros(tracks):
    batch = augmented(tracks[:1], UMX, seconds=5.0)[0]
    assert batch["stems"].shape == (1, 3, 2, 5 * RATE)
    assert not batch["stems"][..., LENGTH:].any()
    assert batch["stems"][..., : LENGTH - 1].abs().sum(dim=2).min() > 0


def test_a_value_that_changes_leaves_the_other_draws(tracks):
    one, other = (augmented(tracks, StemAugmentationConfig(gain_probability=share)) for share in (0.0, 1.0))
    assert [one[visit]["track"] for visit in range(5)] == [other[visit]["track"] for visit in range(5)]
    quiet, loud = one[2]["stems"], other[2]["stems"]
    factor = loud[:, :, :1, :1] / quiet[:, :, :1, :1]
    torch.testing.assert_close(loud, quiet * factor)


def test_mixing_changes_the_inputs_alone(tracks):
    mixing = StemFormat(FORMAT.names, "mix", RATE, 2)
    batch = augmented(tracks, FXNORM, format=mixing).__getitems__(list(range(8)))
    assert (batch["mixture"] == 0.9).all()
    plain = augmented(tracks, NOTHING, format=mixing).__getitems__(list(range(8)))
    assert not torch.equal(batch["stems"], plain["stems"])
    torch.testing.assert_close(batch["audio"], plain["audio"])  # a mono downmix knows no left and right
    assert batch["audio"].shape == (8, 1, 4000)
    for config in (UMX, HTDEMUCS, StemAugmentationConfig(remix_group=2)):
        with pytest.raises(ConfigError, match="a mix does not follow"):
            augmented(tracks, config, format=mixing)


def test_visits_follow_from_the_step():
    sampler = VisitSampler(2, 3)
    assert list(sampler) == [[0, 1], [2, 3], [4, 5]]
    sampler.set_epoch(1)
    assert list(sampler) == list(sampler) == [[6, 7], [8, 9], [10, 11]]
    both = [list(VisitSampler(2, 3, rank, 2)) for rank in (0, 1)]
    assert sorted(visit for batches in both for batch in batches for visit in batch) == list(range(12))


def test_the_loader_gives_the_same_with_workers(tracks):
    whole = [
        [batch["stems"] for batch in training_loader(augmented(tracks, UMX), 2, workers, 0, 3)] for workers in (0, 2)
    ]
    assert all(map(torch.equal, *whole))
    assert len(training_loader(augmented(tracks, UMX), 4, 0, 0, None)) == 10  # 5 tracks of 4 s, 4 segments of 0.5 s


class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.visits = []

    def training_step(self, batch, _):
        assert batch["augmented"]
        self.visits.append(batch["clip"])
        return (self.weight * batch["mixture"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_moves_through_the_visits(tracks, tmp_path):
    task = Recorder()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, training_loader(augmented(tracks, UMX), 2, 0, 0, 2))
    assert task.visits == [[f"visit {first}", f"visit {first + 1}"] for first in (0, 2, 4, 6)]


def test_presets():
    """Figures of openunmix/data.py and of demucs' conf/config.yaml, augment.py and repitch.py."""
    assert UMX.random_tracks
    assert UMX.gain == HTDEMUCS.gain == (0.25, 1.25)
    assert (UMX.gain_probability, UMX.swap_probability, UMX.sign_probability) == (1.0, 0.5, 0.0)
    assert (HTDEMUCS.shift_seconds, HTDEMUCS.remix_group, HTDEMUCS.sign_probability) == (1.0, 4, 0.5)
    assert (HTDEMUCS.repitch_probability, HTDEMUCS.semitones) == (0.2, 2)
    assert (HTDEMUCS.tempo_deviation, HTDEMUCS.tempo_limit) == (0.05, 0.12)
    assert not FXNORM.parts_stems


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain_probability": 1.5}, "gain_probability must lie in"),
        ({"gain": (1.0, 0.5)}, "gain must be a range"),
        ({"gain": (-1.0, 0.5)}, "gain must be a range"),
        ({"semitones": 13}, "semitones in 0..12"),
        ({"tempo_limit": 1.0}, "tempo_limit in"),
        ({"shift_seconds": -1.0}, "shift_seconds of at least 0"),
        ({"remix_group": 0}, "remix_group of at least 1"),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(ConfigError, match=message):
        StemAugmentationConfig(**options)


def test_there_must_be_a_track():
    with pytest.raises(ConfigError, match="one or more training tracks"):
        AugmentedStems([], FORMAT, 1.0, UMX, 0)
