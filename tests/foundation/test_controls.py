import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec
from sonido_bench.foundation.controls import randomised
from sonido_bench.foundation.convnet import ConvNet
from sonido_bench.foundation.logmel import LogMel


class Learned(Extractor):
    """Weights of every kind that a reset might miss."""

    card = ExtractorCard("learned", "For tests.", "MIT", "MIT", "None.")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.linear = nn.Linear(4, 4)
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.positions = nn.Parameter(torch.randn(9, 4) * 3)
        self.norm = nn.LayerNorm(4)
        self.register_buffer("codebook", torch.randn(16, 4))
        self.register_buffer("steps", torch.tensor(100))
        self.register_buffer("window", torch.hann_window(8), persistent=False)
        self.spec = FeatureSpec(100, {"a": StreamSpec(4, 4)})

    def forward(self, audio):
        return {"a": self.linear(audio.unflatten(1, (-1, 4)))}


def test_nothing_learned_is_left():
    extractor = Learned()
    control = randomised(extractor)
    before, after = extractor.state_dict(), control.state_dict()
    constant = {name for name, tensor in before.items() if tensor.numel() == 1 or tensor.unique().numel() == 1}
    assert constant == {"norm.weight", "norm.bias", "steps", "attention.in_proj_bias", "attention.out_proj.bias"}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed >= before.keys() - constant
    assert torch.equal(control.window, extractor.window)


def test_what_cannot_be_drawn_keeps_its_distribution():
    extractor = Learned()
    control = randomised(extractor)
    for name in ("positions", "codebook"):
        assert torch.equal(getattr(control, name).flatten().sort()[0], getattr(extractor, name).flatten().sort()[0])


def test_is_another_extractor_and_leaves_the_first_alone():
    extractor = Learned()
    before = copy.deepcopy(extractor.state_dict())
    control = randomised(extractor)
    assert all(torch.equal(tensor, before[name]) for name, tensor in extractor.state_dict().items())
    assert control.fingerprint() != extractor.fingerprint()
    assert (extractor.card.name, control.card.name) == ("learned", "learned@random")
    assert control.spec == extractor.spec
    assert not control.training
    assert not any(parameter.requires_grad for parameter in control.parameters())


def test_seed_decides_and_the_random_state_does_not():
    torch.manual_seed(1)
    first = randomised(ConvNet(), seed=3).fingerprint()
    state = torch.get_rng_state()
    assert randomised(ConvNet(), seed=3).fingerprint() == first
    assert torch.equal(torch.get_rng_state(), state)
    assert randomised(ConvNet(), seed=4).fingerprint() != first


def test_extractor_without_weights_has_no_random_control():
    with pytest.raises(ConfigError, match="logmel has no weights"):
        randomised(LogMel())
