import pytest
import torch
from torch import nn

from sonido_bench.errors import ConfigError
from sonido_bench.nn.optional_injection import OptionalInjection
from sonido_bench.nn.published import load_published


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.inject = OptionalInjection({"top": 4}, 2)


def published():
    names = ("layer.weight", "layer.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    own = Network().state_dict()
    return {name: torch.randn(own[name].shape) for name in names}


def test_all_but_the_injections_is_loaded_whatever_the_precision():
    network, state = Network(), published()
    injection = network.inject.state_dict()
    load_published(
        network, {name: tensor.half() for name, tensor in state.items()} | {"window": torch.ones(3)}, ["window"]
    )
    assert torch.allclose(network.layer.weight, state["layer.weight"], atol=1e-3)
    assert network.layer.weight.dtype == torch.float32
    assert all(torch.equal(network.inject.state_dict()[name], tensor) for name, tensor in injection.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer.bias": None}, r"missing: layer.bias \(1 in all\)"),
        ({"other": torch.ones(1)}, r"unknown: other \(1 in all\)"),
        ({"layer.bias": torch.ones(5)}, r"of another shape: layer.bias \(5,\) instead of \(2,\)"),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_loaded(change, message):
    network = Network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = {name: tensor for name, tensor in {**published(), **change}.items() if tensor is not None}
    with pytest.raises(ConfigError, match=message):
        load_published(network, state)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
