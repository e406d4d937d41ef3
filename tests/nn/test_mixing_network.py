"""What holds for every mixing network, with and without features."""

import pytest
import torch
from torch import nn

from sonido_bench.nn.crafx2 import CRAFx2
from sonido_bench.nn.mix_wave_unet import FxNormWaveUNet, MixWaveUNet

DIMS = {"top": 5, "mid": 3}
SAMPLES = 333


def mix_wave_unet(feature_dims=None, **options):
    return MixWaveUNet(stems=2, layers=3, growth=4, feature_dims=feature_dims, **options)


def fxnorm_wave_unet(feature_dims=None, **options):
    return FxNormWaveUNet(stems=2, widths=(8, 16, 24), feature_hop=64, feature_dims=feature_dims, **options)


def crafx2(feature_dims=None, **options):
    sizes = {"encoder_width": 8, "width": 12, "hidden": 8, "skip_width": 6, "blocks": 2, "repeats": 2, "expansion": 2}
    return CRAFx2(stems=2, **sizes, feature_dims=feature_dims, **options)


networks = pytest.mark.parametrize("make", [mix_wave_unet, fxnorm_wave_unet, crafx2])
injections = pytest.mark.parametrize("injection", ["add", "concat"])


def pair(make, **options):
    torch.manual_seed(3)
    baseline = make(**options)
    after_baseline = torch.rand(1)
    torch.manual_seed(3)
    boosted = make(DIMS, **options)
    assert torch.equal(torch.rand(1), after_baseline), "construction must draw the same random numbers"
    return baseline, boosted


def inputs(network, samples=SAMPLES):
    generator = torch.Generator().manual_seed(0)
    stems = 0.3 * torch.randn(3, 2, 2, samples, generator=generator)
    frames = network.frames(samples)
    return stems, {name: torch.randn(3, frames, dim, generator=generator) for name, dim in DIMS.items()}


@networks
@pytest.mark.parametrize("training", [False, True])
def test_features_change_nothing_at_step_0(make, training):
    """In training too: dropout is that of the baseline."""
    baseline, boosted = (network.train(training) for network in pair(make))
    stems, features = inputs(boosted)
    torch.manual_seed(7)
    expected = baseline(stems)
    torch.manual_seed(7)
    assert torch.equal(boosted(stems, features), expected)


@networks
@injections
def test_shared_weights_start_equal(make, injection):
    baseline, boosted = pair(make, injection=injection)
    weights = boosted.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in baseline.state_dict().items())
    assert {name.split(".")[0] for name in weights.keys() - baseline.state_dict().keys()} == {"inject"}


@networks
@injections
def test_gradients_reach_the_injection_and_everything_else(make, injection):
    _, boosted = pair(make, injection=injection)
    stems, features = inputs(boosted)
    trained = [parameter for parameter in boosted.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, 0.1)
    for _ in range(2):  # after one step the projection is no longer zero and the norm before it learns as well
        optimiser.zero_grad()
        (boosted(stems, features) - torch.randn(3, 2, SAMPLES)).square().sum().backward()
        optimiser.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in trained)


@networks
def test_features_change_the_mix_once_they_are_projected(make):
    _, boosted = pair(make)
    boosted.eval()
    stems, features = inputs(boosted)
    before = boosted(stems, features)
    for projection in boosted.inject.injection.projections.values():
        nn.init.normal_(projection.weight)
    assert not torch.equal(boosted(stems, features), before)


@networks
@pytest.mark.parametrize("samples", [1, 7, 63, 64, 65, 1000])
def test_any_length(make, samples):
    _, boosted = pair(make)
    stems, features = inputs(boosted, samples)
    mix = boosted(stems, features)
    assert mix.shape == (3, 2, samples)
    assert torch.isfinite(mix).all()


@networks
def test_features_must_fit_the_network(make):
    baseline, boosted = pair(make)
    stems, features = inputs(boosted)
    with pytest.raises(ValueError, match="takes no features"):
        baseline(stems, features)
    with pytest.raises(ValueError, match="needs features"):
        boosted(stems)
    with pytest.raises(ValueError, match="align it first"):
        boosted(stems, {name: stream[:, 1:] for name, stream in features.items()})


@networks
@pytest.mark.parametrize("shape", [(3, 4, 100), (3, 3, 2, 100), (3, 2, 1, 100), (3, 2, 2, 0)])
def test_other_shapes_are_refused(make, shape):
    with pytest.raises(ValueError, match="expected stems of shape"):
        make()(torch.zeros(shape))


@networks
@pytest.mark.parametrize("option", [{"stems": 0}, {"sample_rate": 0}])
def test_sizes_must_be_positive(make, option):
    network = type(make())
    with pytest.raises(ValueError, match="expected at least 1 stem"):
        network(**option)


@networks
def test_stems_have_an_order_and_channels_too(make):
    network = make().eval()
    stems, _ = inputs(network)
    assert not torch.allclose(network(stems), network(stems.flip(1)), atol=1e-5)
    assert not torch.allclose(network(stems), network(stems.flip(2)), atol=1e-5)


@networks
def test_silence_gives_finite_gradients(make):
    network = make()
    network(torch.zeros(2, 2, 2, 128)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


@networks
def test_learns_to_mix_two_items(make):
    """A fixed gain for each stem is within reach of all of them."""
    torch.manual_seed(0)
    network = make()
    stems = 0.3 * torch.randn(2, 2, 2, 512)
    target = 0.5 * stems[:, 0] - 0.25 * stems[:, 1]
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        loss = nn.functional.l1_loss(network(stems), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
