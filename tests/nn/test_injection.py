import pytest
import torch
from torch import nn

from sonido_bench.nn.injection import FeatureInjection

DIMS = {"top": 6, "mid": 4}


def features(dims=DIMS, frames=5):
    return {name: torch.randn(2, frames, dim) for name, dim in dims.items()}


@pytest.mark.parametrize("mode", ["add", "concat"])
@pytest.mark.parametrize("weighted_sum", [False, True])
def test_step_zero_equals_the_baseline_bit_for_bit(mode, weighted_sum):
    dims = {"a": 6, "b": 6}
    hidden = torch.randn(2, 5, 8)
    injection = FeatureInjection(dims, 8, mode, weighted_sum)
    assert torch.equal(injection(hidden, features(dims)), hidden)


@pytest.mark.parametrize("mode", ["add", "concat"])
def test_building_leaves_the_random_state_alone(mode):
    torch.manual_seed(3)
    expected = nn.Linear(4, 4).weight
    torch.manual_seed(3)
    FeatureInjection(DIMS, 8, mode)
    assert torch.equal(nn.Linear(4, 4).weight, expected)


def test_streams_equal_one_projection_of_all_side_by_side():
    injection = FeatureInjection(DIMS, 8)
    nn.init.normal_(injection.projections["top"].weight)
    nn.init.normal_(injection.projections["mid"].weight)
    hidden, streams = torch.randn(2, 5, 8), features()
    normalised = torch.cat(
        [nn.functional.layer_norm(streams[name], (dim,)) / dim**0.5 for name, dim in DIMS.items()], dim=-1
    )
    weight = torch.cat([injection.projections[name].weight for name in DIMS], dim=1)
    assert torch.allclose(injection(hidden, streams), hidden + normalised @ weight.T, atol=1e-5)


def test_weighted_sum_starts_as_the_mean_and_follows_its_weights():
    injection = FeatureInjection({"a": 4, "b": 4}, 8, weighted_sum=True)
    nn.init.normal_(injection.projections["weighted_sum"].weight)
    hidden, streams = torch.zeros(2, 5, 8), features({"a": 4, "b": 4})

    def expected(mixture):
        return nn.functional.layer_norm(mixture, (4,)) / 2 @ injection.projections["weighted_sum"].weight.T

    assert torch.allclose(injection(hidden, streams), expected((streams["a"] + streams["b"]) / 2), atol=1e-5)
    with torch.no_grad():
        injection.layer_weights.copy_(torch.tensor([-50.0, 50.0]))
    assert torch.allclose(injection(hidden, streams), expected(streams["b"]), atol=1e-5)


@pytest.mark.parametrize("mode", ["add", "concat"])
@pytest.mark.parametrize("weighted_sum", [False, True])
def test_learns_from_the_first_steps(mode, weighted_sum):
    dims = {"a": 6, "b": 6}
    torch.manual_seed(0)
    injection = FeatureInjection(dims, 8, mode, weighted_sum)
    hidden, streams = torch.randn(2, 5, 8), features(dims)
    target = hidden + nn.functional.layer_norm(streams["a"], (6,)) @ torch.randn(6, 8)
    optimiser = torch.optim.Adam(injection.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        loss = nn.functional.mse_loss(injection(hidden, streams), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert all(parameter.grad is not None for parameter in injection.parameters())


def test_only_the_order_of_names_in_dims_matters():
    injection = FeatureInjection({"a": 4, "b": 4}, 8, weighted_sum=True)
    nn.init.normal_(injection.projections["weighted_sum"].weight)
    with torch.no_grad():
        injection.layer_weights.copy_(torch.tensor([0.0, 3.0]))
    streams = features({"a": 4, "b": 4})
    hidden = torch.zeros(2, 5, 8)
    assert torch.equal(injection(hidden, streams), injection(hidden, dict(reversed(streams.items()))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": {}, "width": 8}, "at least one stream"),
        ({"dims": DIMS, "width": 8, "weighted_sum": True}, "equal width"),
        ({"dims": DIMS, "width": 8, "mode": "multiply"}, "mode"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureInjection(**arguments)


def test_other_streams_and_frames_are_refused():
    injection = FeatureInjection(DIMS, 8)
    hidden = torch.zeros(2, 5, 8)
    with pytest.raises(ValueError, match="expected the streams"):
        injection(hidden, {"top": torch.zeros(2, 5, 6)})
    with pytest.raises(ValueError, match="align it first"):
        injection(hidden, features(frames=6))


@pytest.mark.parametrize("gain", [1.0, 8.0])
def test_gain_is_the_length_of_a_normalised_frame(gain):
    injection = FeatureInjection({"a": 16}, 16, gain=gain)
    nn.init.eye_(injection.projections["a"].weight)
    injected = injection(torch.zeros(1, 5, 16), {"a": torch.randn(1, 5, 16)})
    assert torch.allclose(injected.norm(dim=-1), torch.tensor(gain), rtol=1e-3)


def test_a_gain_that_silences_features_is_refused():
    with pytest.raises(ValueError, match="positive gain"):
        FeatureInjection({"a": 4}, 8, gain=0.0)
