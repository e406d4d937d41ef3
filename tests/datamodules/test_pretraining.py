import pickle
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from sonido_bench.datamodules.augmentation import AugmentationConfig
from sonido_bench.datamodules.pretraining import HeldOutSegments, RandomSegments, StepDataModule, StepSampler
from sonido_bench.datamodules.recordings import FolderAudio, FolderAudioConfig
from sonido_bench.errors import ConfigError, DataError

RATE = 8000
UNCHANGED = AugmentationConfig(
    gain_probability=0.0,
    equaliser_probability=0.0,
    noise_probability=0.0,
    lowpass_probability=0.0,
    speed_probability=0.0,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Recordings whose samples tell which they are and where: recording n runs from n / 10 to (n + 1) / 10."""
    root = tmp_path_factory.mktemp("audio")
    for index in range(6):
        ramp = (index + np.linspace(0, 1, 2 * RATE, endpoint=False)) / 10
        soundfile.write(root / f"{index}.wav", ramp, RATE, subtype="FLOAT")
    soundfile.write(root / "short.wav", np.full(100, 0.9), RATE, subtype="FLOAT")
    return FolderAudio(FolderAudioConfig(str(root), 0.2))


def segments(source, augmentation=UNCHANGED, crops=2, seed=0, samples=4000):
    return RandomSegments(source, augmentation, samples, RATE, crops, seed)


def recording(segment):
    return "short" if segment[0] > 0.85 else int(10 * segment[0] + 1e-4)


def test_an_item_is_a_function_of_seed_and_number(source):
    config = AugmentationConfig()
    forwards = [segments(source, config)[visit] for visit in range(7)]
    other = segments(source, config)
    assert all(torch.equal(other[visit], forwards[visit]) for visit in reversed(range(7)))
    assert not torch.equal(segments(source, config, seed=1)[0], forwards[0])


def test_segments_are_stretches_of_recordings(source):
    for visit in range(6):
        item = segments(source)[visit]
        assert item.shape == (2, 4000)
        assert item.dtype == torch.float32
        for segment in item:
            if recording(segment) != "short":
                torch.testing.assert_close(segment.diff(), torch.full((3999,), 0.1 / (2 * RATE)), atol=1e-6, rtol=0)
    assert not torch.equal(item[0], item[1])


def test_each_recording_comes_once_in_a_turn(source):
    data, count = segments(source), len(source.training)
    turns = [[recording(data[turn * count + place][0]) for place in range(count)] for turn in range(3)]
    assert all(sorted(turn, key=str) == sorted(turns[0], key=str) for turn in turns)
    assert len(set(turns[0])) == count
    assert turns[0] != turns[1] or turns[1] != turns[2]


def test_a_changed_speed_still_fills_the_segment(source):
    config = AugmentationConfig(speed_probability=1.0, semitones=(6, 6), snr_db=(60, 60), equaliser_probability=0)
    items = [segments(source, config)[visit] for visit in range(len(source.training))]
    long = [item for item in items if item[0].abs().max() > 0 and (item[:, -400:].abs().max() > 0.005)]
    assert len(long) >= len(items) - 2  # the short one, and recording 0 may begin near zero


def test_a_short_recording_is_filled_up_with_zeros(source):
    names = [*source.training, *source.validation]
    data = segments(source) if "short.wav" in source.training else HeldOutSegments(source, 4000, RATE)
    items = [data[place] for place in range(len(names) if isinstance(data, RandomSegments) else len(data))]
    item = next(item for item in items if item[0, 0] > 0.85)
    assert not item[:, 100:].any()
    torch.testing.assert_close(item[:, :100], torch.full((len(item), 100), 0.9))


def test_what_is_held_out_is_the_middle_and_never_trained_on(source):
    held_out = HeldOutSegments(source, 4000, RATE)
    assert len(held_out) == len(source.validation)
    trained = {recording(segments(source)[visit][0]) for visit in range(len(source.training))}
    assert trained.isdisjoint(recording(held_out[index][0]) for index in range(len(held_out)))
    segment = held_out[0][0]
    if recording(segment) != "short":
        assert segment.mean().item() == pytest.approx((recording(segment) + 0.5) / 10, abs=1e-3)


def test_a_recording_that_vanished_is_replaced_with_a_warning(tmp_path, capsys):
    for index in range(3):
        soundfile.write(tmp_path / f"{index}.wav", np.full(800, 0.1 + 0.2 * index), RATE)
    source = FolderAudio(FolderAudioConfig(str(tmp_path), 0.1))
    data = segments(source, samples=400)
    (tmp_path / source.training[0]).unlink()
    items = [data[visit] for visit in range(4)]
    assert all(torch.equal(item, items[0]) for item in items)
    assert len(capsys.readouterr().err.splitlines()) == 1
    (tmp_path / source.training[1]).unlink()
    with pytest.raises(DataError, match="no recording"):
        data[0]


def test_batches_begin_anywhere_and_are_shared_out():
    whole = list(islice(StepSampler(2), 6))
    assert whole == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert list(islice(StepSampler(2, start=4), 2)) == whole[4:]
    both = [list(islice(StepSampler(2, rank=rank, processes=2), 3)) for rank in (0, 1)]
    assert sorted(visit for batches in both for batch in batches for visit in batch) == list(range(12))
    assert list(islice(StepSampler(2, start=1, rank=1, processes=2), 1)) == [[6, 7]]


def test_batches_do_not_depend_on_where_they_begin(source):
    data = StepDataModule(segments(source, AugmentationConfig()), HeldOutSegments(source, 4000, RATE), 4, 2, 0)
    whole = list(islice(data.batches(), 5))
    assert all(batch.shape == (4, 4000) for batch in whole)
    assert all(map(torch.equal, islice(data.batches(3), 2), whole[3:]))
    assert sum(len(batch) for batch in data.val_dataloader()) == len(source.validation)


def test_a_copy_in_another_process_gives_the_same(source):
    data = segments(source, AugmentationConfig())
    data[3]
    assert torch.equal(pickle.loads(pickle.dumps(data))[5], segments(source, AugmentationConfig())[5])


def test_a_visit_must_fit_into_batches(source):
    with pytest.raises(ConfigError, match="crops must divide batch_size"):
        StepDataModule(segments(source, crops=3), HeldOutSegments(source, 4000, RATE), 4, 3, 0)
