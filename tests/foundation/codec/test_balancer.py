import numpy as np
import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.balancer import Balancer


def balanced(balancer, output, **losses):
    loss, norms = balancer(losses, output)
    (gradient,) = torch.autograd.grad(loss, output)
    return gradient, norms


def test_the_gradient_is_that_of_a_manual_computation_over_several_steps():
    generator, decay = np.random.default_rng(0), 0.9
    weights = {"first": 1.0, "second": 3.0}
    balancer = Balancer(weights, decay)
    totals, mass = dict.fromkeys(weights, 0.0), 0.0
    for _ in range(4):
        sides = {name: generator.normal(size=(3, 5)) * 10 ** generator.uniform(-3, 3) for name in weights}
        output = torch.randn(3, 5, requires_grad=True)
        losses = {name: (output * torch.from_numpy(side).float()).sum() for name, side in sides.items()}
        gradient, norms = balanced(balancer, output, **losses)
        mass = mass * decay + 1
        expected = np.zeros((3, 5))
        for name, side in sides.items():
            norm = np.linalg.norm(side, axis=1).mean()
            assert float(norms[name]) == pytest.approx(norm, rel=1e-5)
            totals[name] = totals[name] * decay + norm
            expected += weights[name] / 4 * side / (totals[name] / mass)
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4)


def test_the_units_of_a_loss_do_not_matter():
    output = torch.randn(2, 6, requires_grad=True)
    one, _ = balanced(Balancer({"a": 1, "b": 1}), output, a=output.square().sum(), b=output.abs().sum())
    other, _ = balanced(Balancer({"a": 1, "b": 1}), output, a=1e4 * output.square().sum(), b=output.abs().sum())
    torch.testing.assert_close(one, other)


def test_a_loss_whose_turn_has_not_come_has_no_share():
    output = torch.randn(2, 6, requires_grad=True)
    gradient, _ = balanced(Balancer({"a": 1, "b": 9}), output, a=output.sum())
    torch.testing.assert_close(gradient.norm(dim=1), torch.ones(2))


def test_parameters_on_the_way_get_no_gradient_and_those_before_do():
    before, way = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    output = before(torch.randn(2, 4))
    loss, _ = Balancer({"a": 1.0})({"a": way(output).sum()}, output)
    loss.backward()
    assert before.weight.grad is not None
    assert way.weight.grad is None


def test_its_averages_are_in_its_state():
    output, first = torch.randn(2, 6, requires_grad=True), Balancer({"a": 1.0})
    balanced(first, output, a=5 * output.sum())
    second = Balancer({"a": 1.0})
    second.load_state_dict(first.state_dict())
    assert torch.equal(balanced(first, output, a=output.sum())[0], balanced(second, output, a=output.sum())[0])


def test_wrong_weights_and_unknown_losses_are_refused():
    for weights in ({}, {"a": 0.0}, {"a": -1.0, "b": 2.0}):
        with pytest.raises(ConfigError, match="balancer: expected weights"):
            Balancer(weights)
    output = torch.randn(2, 6, requires_grad=True)
    for losses in ({"b": output.sum()}, {}):
        with pytest.raises(ValueError, match="balancer: expected losses among"):
            Balancer({"a": 1.0})(losses, output)
