import lightning.pytorch as pl
import mir_eval
import numpy as np
import pytest
import torch

from sonido_bench.datamodules.rendered import TEMPO_CENTRE, RenderedDataModule
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_file

SMALL = {"seconds": 2.0, "train_tracks": 6, "validation_tracks": 3, "test_tracks": 3, "batch_size": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("rendered")
    RenderedDataModule(root, **SMALL).prepare_data()
    return root


def ready(root, target="instruments", **options):
    data = RenderedDataModule(root, target, **(SMALL | options))
    data.prepare_data()
    data.setup()
    return data


def truth(data, split):
    tracks = {track.name: track for track in data.manifest.tracks}
    return [tracks[clip.name] for clip in data.clips(split)]


def test_identity(root):
    data = ready(root)
    assert data.name == "rendered"
    assert data.folder == root / data.version[:12]
    assert data.sha256 == sha256_file(data.folder / "manifest.jsonl")
    assert ready(root, "notes", fraction=0.5, seed=3).sha256 == data.sha256  # what a task wants changes no data


def test_clips_carry_their_files_checksum(root):
    data = ready(root)
    names = [clip.name for split in ("train", "validation", "test") for clip in data.clips(split)]
    assert len(set(names)) == 12
    for clip in data.clips("test"):
        assert sha256_file(clip.path) == clip.sha256
        assert (clip.start, clip.seconds) == (0.0, 2.0)
    assert [clip.name for clip in data.clips("test")] == [f"test-0000{place}" for place in range(3)]


def test_fractions_are_nested_and_seeded(root):
    some, all_ = (ready(root, fraction=fraction, seed=4).clips("train") for fraction in (0.5, 1.0))
    assert len(some) == 3
    assert all_[:3] == some
    assert sorted(clip.name for clip in all_) == [f"train-0000{place}" for place in range(6)]
    assert all_ != ready(root, seed=5).clips("train")


def test_instruments(root):
    data = ready(root)
    assert len(data.classes) == 12
    for batch, tracks in zip(data.test_dataloader(), (truth(data, "test")[:2], truth(data, "test")[2:]), strict=True):
        assert batch["audio"].shape == (len(tracks), 2, 88200)
        assert batch["audio"].abs().max() <= 1
        assert batch["sample_rate"] == 44100
        heard = [[data.classes[tag] for tag in row.nonzero().flatten()] for row in batch["target"]]
        assert heard == [track.families for track in tracks]


def test_keys(root):
    data = ready(root, "key")
    target = torch.cat([batch["target"] for batch in data.val_dataloader()])
    assert target.dtype == torch.long
    assert [data.classes[place] for place in target] == [track.key for track in truth(data, "validation")]


def test_tempo(root):
    data = ready(root, "tempo")
    target = torch.cat([batch["target"] for batch in data.val_dataloader()])
    assert target.shape == (3, 1)
    expected = [track.tempo for track in truth(data, "validation")]
    np.testing.assert_allclose(TEMPO_CENTRE * 2 ** target[:, 0].numpy(), expected, rtol=1e-5)


def test_notes(root):
    data = ready(root, "notes")
    assert data.classes == ()
    notes = [notes for batch in data.test_dataloader() for notes in batch["notes"]]
    for rows, track in zip(notes, truth(data, "test"), strict=True):
        assert rows.dtype == torch.float32
        assert len(rows) > 3
        assert (rows[1:, 0] >= rows[:-1, 0]).all()
        reference = np.array([note[1:] for note in track.notes if not track.parts[int(note[0])]["is_drum"]])
        hertz = mir_eval.util.midi_to_hz
        _, recall, _, _ = mir_eval.transcription.precision_recall_f1_overlap(
            rows[:, :2].numpy(), hertz(rows[:, 2].numpy()), reference[:, :2], hertz(reference[:, 2]), offset_ratio=None
        )
        assert recall == 1.0  # whatever was merged, no note is invented


def test_training_order_is_the_same_for_all_arms(root):
    baseline, boosted = ready(root, seed=2), ready(root, seed=2)
    features = {
        clip.name: {"top": torch.zeros(4, 3)}
        for split in ("train", "validation", "test")
        for clip in boosted.clips(split)
    }
    boosted.attach(features, features)
    orders = []
    for data in (baseline, boosted):
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(3)
        orders.append([batch["clip"] for batch in loader])
    assert orders[0] == orders[1]
    assert all(len(clips) == 2 for clips in orders[0])
    batch = next(iter(boosted.test_dataloader()))
    assert "audio" not in batch
    assert batch["features"]["top"].shape == (2, 4, 3)


def test_small_fractions_fill_batches(root):
    data = ready(root, fraction=0.1, batch_size=4, batches_per_epoch=3)
    batches = list(data.train_dataloader())
    assert [len(batch["clip"]) for batch in batches] == [4, 4, 4]
    assert {name for batch in batches for name in batch["clip"]} == {data.clips("train")[0].name}


class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.order = []

    def training_step(self, batch, _):
        self.order.append((self.current_epoch, batch["clip"]))
        return self.weight**2

    def validation_step(self, batch, _):
        assert "front_end" in batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_moves_through_the_epochs(root, tmp_path):
    data = ready(root, seed=1)
    data.attach(
        {clip.name: {"top": torch.zeros(1, 1)} for s in ("train", "validation") for clip in data.clips(s)}, None
    )
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
    trainer.fit(task, datamodule=data)
    expected = []
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        expected += [(epoch, batch["clip"]) for batch in loader]
    assert task.order == expected
    assert expected[:3] != [(0, clips) for _, clips in expected[3:]]


def test_unprepared_data(tmp_path):
    with pytest.raises(DataError, match="prepare it first"):
        RenderedDataModule(tmp_path, **SMALL).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "genre"}, "target must be one of instruments, key, tempo, notes, got 'genre'"),
        ({"fraction": 0.0}, "fraction must be in"),
        ({"fraction": 1.5}, "fraction must be in"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"batches_per_epoch": 0}, "batches_per_epoch"),
        ({"seconds": -1.0}, "seconds must be in"),
        ({"data_seed": -1}, "data seed"),
        ({"train_tracks": -1}, "train must have"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ConfigError, match=message):
        RenderedDataModule(**options)
