import pytest
import torch
from torch import nn

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.audio_phase import AudioTraining, DataInitialisedPhase, DataInitialisedTraining


@pytest.mark.parametrize(
    ("seconds", "sample_rate", "hop", "samples"),
    [(1.0, 16_000, 128, 16_000), (1.0, 44_100, 128, 44_160), (1.0, 32_000, 640, 32_000), (0.001, 32_000, 640, 640)],
)
def test_segments_are_whole_frames_and_one_at_least(seconds, sample_rate, hop, samples):
    assert AudioTraining(steps=250, batch_size=2, segment_seconds=seconds).samples(sample_rate, hop) == samples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be positive"),
        ({"segment_seconds": 0.0}, "segment_seconds and crops must be above 0, got 0.0 and 2"),
        ({"crops": 0}, "segment_seconds and crops must be above 0, got 1.5 and 0"),
        ({"initial_batches": 0}, "initial_batches must be above 0, got 0"),
    ],
)
def test_what_trains_nothing_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DataInitialisedTraining(**({"steps": 250, "batch_size": 2} | options))


class Network(nn.Module):
    def initialise(self, batches):
        self.batches, self.drawn = batches, torch.rand(4)


def phase(seed):
    return DataInitialisedPhase(Network(), DataInitialisedTraining(steps=250, batch_size=2), seed)


def test_a_start_from_data_follows_the_seed_and_is_in_the_checkpoint():
    first, second, other = phase(1), phase(1), phase(2)
    with pytest.raises(RuntimeError, match="call initialise"):
        first.on_train_start()
    batches = [torch.zeros(2, 8)]
    for module in (first, second, other):
        module.initialise(batches)
    assert first.model.batches is batches
    assert torch.equal(first.model.drawn, second.model.drawn)
    assert not torch.equal(first.model.drawn, other.model.drawn)
    fresh = phase(1)
    fresh.load_state_dict(first.state_dict())
    fresh.on_train_start()
