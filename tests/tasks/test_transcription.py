import pytest
import torch

from sonido_bench.errors import DataError
from sonido_bench.features.spec import FrameGrid
from sonido_bench.nn.note_targets import note_targets
from sonido_bench.nn.transcriber import NoteMaps
from sonido_bench.tasks import TranscriptionTask
from sonido_bench.tasks.note_thresholds import ONSET_GRID, choose_thresholds

NOTES = [
    torch.tensor([[0.1, 0.5, 69, 100], [0.7, 1.2, 69, 40], [0.9, 1.4, 76, 80]]),
    torch.tensor([[0.3, 0.8, 57, 70], [1.0, 1.6, 64, 120]]),
]


def render(notes, seconds=2.0, rate=8000):
    time = torch.arange(int(seconds * rate)) / rate
    audio = torch.zeros_like(time)
    for onset, offset, pitch, velocity in notes.tolist():
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        audio += velocity / 400 * ((time >= onset) & (time < offset)) * torch.sin(2 * torch.pi * hertz * time)
    return audio


def batch(notes=NOTES):
    return {
        "clip": [f"clip{index}" for index in range(len(notes))],
        "seconds": 2.0,
        "sample_rate": 8000,
        "audio": torch.stack([render(each) for each in notes]).unsqueeze(1),
        "notes": list(notes),
    }


def make_task(front_end, extractor=None, **options):
    torch.manual_seed(0)
    return TranscriptionTask(front_end, extractor, width=64, **options)


@pytest.mark.parametrize("boosted", [False, True])
def test_overfits_two_items(front_end, extractor, cached, trainer, loader, boosted):
    arm = extractor if boosted else None
    task = make_task(front_end, arm, max_steps=150, learning_rate=1e-2, dropout=0.0)
    clips = loader([cached(batch(), front_end, arm)])
    runner = trainer(max_epochs=150, check_val_every_n_epoch=50)
    runner.fit(task, clips, clips)
    assert float(runner.callback_metrics[task.monitor]) == 1
    runner.test(task, clips, verbose=False)
    assert task.values["note_f1"] == 1
    assert task.values["note_offset_f1"] > 0.75
    assert task.values["frame_f1"] > 0.9
    assert list(task.values) == ["note_f1", "note_offset_f1", "note_offset_velocity_f1", "frame_f1"]
    example = task.test_items.examples["clip1"]
    assert example["reference"] == [pytest.approx(row, abs=1e-3) for row in NOTES[1].tolist()]
    assert len(example["estimate"]) == 2
    assert task.predict_step(next(iter(clips)), 0)["clip0"].shape == (3, 4)


def test_thresholds_are_stored_with_the_weights(front_end):
    task, again = make_task(front_end), make_task(front_end)
    task.thresholds.copy_(torch.tensor([0.1, 0.2, 0.3]))
    again.load_state_dict(task.state_dict())
    assert again.thresholds.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_only_validation_moves_the_thresholds(front_end, trainer, loader):
    task = make_task(front_end, max_steps=2)
    trainer(max_epochs=1).fit(task, loader([batch()]))
    trainer().test(task, loader([batch()]), verbose=False)
    assert task.thresholds.tolist() == [0.5, 0.5, 0.5]
    trainer().validate(task, loader([batch()]), verbose=False)
    assert task.thresholds[0] in torch.tensor(ONSET_GRID)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_thresholds_follow_the_level_of_the_maps(scale):
    grid = FrameGrid(31.25, 0.0)
    maps = NoteMaps(*(scale * each for each in note_targets(NOTES, 63, grid.frame_rate, grid.first_centre)))
    chosen, scores = choose_thresholds(maps, NOTES, grid)
    assert scores == {"note_f1": 1.0, "frame_f1": 1.0}
    assert chosen.onset <= 0.67 * scale
    assert chosen.frame <= scale


def test_thresholds_reject_false_onsets():
    grid = FrameGrid(31.25, 0.0)
    maps = note_targets(NOTES, 63, grid.frame_rate, grid.first_centre)
    maps.onset[:, 30, 70:] = 0.25
    chosen, scores = choose_thresholds(maps, NOTES, grid)
    assert chosen.onset > 0.25
    assert scores["note_f1"] == 1


def test_silent_clip_is_scored(front_end, trainer, loader):
    silent = batch([torch.zeros(0, 4), *NOTES])
    task = make_task(front_end, max_steps=1)
    task.thresholds.fill_(1.5)
    trainer().test(task, loader([silent]), verbose=False)
    assert task.test_items.scores["note_f1"] == [1.0, 0.0, 0.0]
    assert task.test_items.scores["frame_f1"] == [1.0, 0.0, 0.0]


def test_more_validation_clips_than_are_held(front_end, trainer, loader):
    task = make_task(front_end, max_steps=1, validation_clips=1)
    runner = trainer()
    runner.validate(task, loader([batch()]), verbose=False)
    assert 0 <= float(runner.callback_metrics["val/note_f1"]) <= 1


def test_audio_that_is_not_finite_is_named(front_end, trainer, loader):
    broken = batch()
    broken["audio"][1, 0, 5] = torch.inf
    with pytest.raises(DataError, match="front end of clip clip1 is not finite"):
        trainer(max_epochs=1).fit(make_task(front_end, max_steps=1), loader([broken]))
