from dataclasses import replace

import pytest
import torch

from sonido_bench.errors import DataError
from sonido_bench.foundation.jukebox.labels import SongLabels, label_vector
from sonido_bench.foundation.jukebox.prior_training import PriorStage, window_labels
from sonido_bench.foundation.token_phase import TokenTraining
from tests.foundation.jukebox.tiny_jukebox import BOTTOM, CODES, HOP, MIDDLE, RATE, TOP, prior

TRAINING = TokenTraining(steps=10, batch_size=2, validate_every=10)


def batch(seed=0):
    """Codes of all levels of two windows of 16 top codes, and their places in songs of 100 and 70 top codes."""
    generator = torch.Generator().manual_seed(seed)
    levels = {f"level_{n}": torch.randint(CODES, (2, 16 * 4 ** (2 - n), 1), generator=generator) for n in range(3)}
    return levels | {"place": torch.tensor([[7, 100], [54, 70]])}


def stage(config, level, above):
    return PriorStage(prior(config).train(), TRAINING, level, above, HOP)


def logged(module, split, given):
    found = {}
    module.log_dict = lambda values, **_: found.update({name: float(value) for name, value in values.items()})
    getattr(module, f"{split}_step")(given, 0)
    return found


@pytest.mark.parametrize(
    ("config", "level", "above"),
    [(TOP, 2, None), (replace(MIDDLE, context=256), 1, 2), (replace(TOP, labels=None), 2, None)],
)
def test_a_window_costs_what_the_prior_says_of_its_codes_place_and_level_above(config, level, above):
    given = batch()
    module = stage(config, f"level_{level}", None if above is None else f"level_{above}")
    labels = None
    if config.labels is not None:
        places = [(100 * HOP, 7 * HOP), (70 * HOP, 54 * HOP)]
        labels = torch.stack([label_vector(config, SongLabels(length), start) for length, start in places])
    codes = given[f"level_{level}"][:, :, 0]
    expected = module.model.loss(codes, labels, None if above is None else given[f"level_{above}"][:, :, 0])
    bits = float(expected.bits_per_code.detach())
    for split, name in {"training": "train", "validation": "val"}.items():
        found = logged(module, split, given)
        assert found[f"{name}/bits_per_code"] == pytest.approx(bits)
        assert found[f"{name}/loss"] == pytest.approx(bits)


def test_the_place_is_heard_by_the_top_prior():
    module, given = stage(TOP, "level_2", None), batch()
    first = logged(module, "validation", given)["val/loss"]
    moved = logged(module, "validation", given | {"place": torch.tensor([[80, 100], [0, 70]])})["val/loss"]
    assert moved != first


def test_times_are_those_of_the_windows_in_samples():
    labels = window_labels(TOP, torch.tensor([[5 * HOP, 90 * HOP], [0, 4 * HOP]]))
    shortest = 13 * HOP  # whole codes, of at least min_seconds
    assert 12 * HOP < 0.2 * RATE <= shortest
    window = TOP.sample_length
    assert labels.tolist() == [[90 * HOP, 5 * HOP, window, 0, 0, -1], [shortest, 0, window, 0, 0, -1]]


def test_a_recording_that_is_too_long_is_named():
    with pytest.raises(DataError, match=r"a recording of 700\.0 s does not fit: prior top knows songs"):
        window_labels(TOP, torch.tensor([[0, 700 * RATE]]))
    assert window_labels(BOTTOM, torch.tensor([[0, 700 * RATE]])).shape == (1, 6)  # which is told no time


def test_it_learns_a_pattern():
    torch.manual_seed(0)
    module = PriorStage(prior(TOP), TRAINING, "level_2", None, HOP)
    module.log_dict = lambda *_, **__: None
    codes = (torch.arange(48) % 3)[None, :, None].repeat(4, 1, 1)
    given = {"level_2": codes, "place": torch.tensor([[0, 100]] * 4)}
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = module._cost(given, 0).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 < 2.0 < losses[0]
