from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sonido_bench.foundation.token_phase import TokenPhase, TokenTraining


class Recorded(TokenPhase):
    def __init__(self, loss=2.0):
        super().__init__(nn.Linear(1, 1), TokenTraining(steps=250, batch_size=3), seed=0)
        self.loss, self.moments, self.logged = loss, [], []

    def _cost(self, batch, moment):
        self.moments.append(moment)
        return SimpleNamespace(loss=torch.tensor(self.loss), metrics={"bits": torch.tensor([1.0, 2.0])})

    def log_dict(self, values, **options):
        self.logged.append((values, options["batch_size"]))


def test_steps_log_their_cost_and_validation_has_the_same_noise_each_time():
    module, batch = Recorded(), {"codes": torch.zeros(3, 5, 2), "condition": torch.zeros(3, 7)}
    assert module.training_step(batch, 4) == 2.0
    module.validation_step(batch, 0)
    module.validation_step(batch, 1)
    assert module.moments == [0, -1, -2]
    assert [size for _, size in module.logged] == [3, 3, 3]
    assert {name: float(value) for name, value in module.logged[0][0].items()} == {"train/loss": 2, "train/bits": 1.5}
    assert {name: float(value) for name, value in module.logged[1][0].items()} == {"val/loss": 2, "val/bits": 1.5}


def test_a_loss_that_is_not_finite_stops_training():
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        Recorded(float("nan")).training_step({"codes": torch.zeros(1, 4, 2)}, 0)
