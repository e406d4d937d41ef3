"""What holds for every task network: with and without features it starts as the same function."""

import pytest
import torch

from sonido_bench.nn.tagger import Tagger
from sonido_bench.nn.transcriber import PITCHES, ShallowTranscriber

DIMS = {"top": 5, "mid": 3}


def tagger(feature_dims=None, **options):
    return Tagger(12, 4, width=16, feature_dims=feature_dims, **options)


def transcriber(feature_dims=None, **options):
    return ShallowTranscriber(12, width=16, context=2, feature_dims=feature_dims, **options)


def outputs(network, *arguments):
    result = network(*arguments)
    return result if isinstance(result, torch.Tensor) else torch.stack(result)


def pair(make, **options):
    torch.manual_seed(3)
    baseline = make(**options)
    after_baseline = torch.rand(1)
    torch.manual_seed(3)
    boosted = make(DIMS, **options)
    assert torch.equal(torch.rand(1), after_baseline), "construction must draw the same random numbers"
    return baseline, boosted


def inputs():
    generator = torch.Generator().manual_seed(0)
    front = torch.randn(3, 9, 12, generator=generator)
    return front, {name: torch.randn(3, 9, dim, generator=generator) for name, dim in DIMS.items()}


@pytest.mark.parametrize("make", [tagger, transcriber])
@pytest.mark.parametrize("training", [False, True])
def test_features_change_nothing_at_step_0(make, training):
    """In training too: dropout and token-out masks are those of the baseline."""
    baseline, boosted = (network.train(training) for network in pair(make))
    front, features = inputs()
    torch.manual_seed(7)
    expected = outputs(baseline, front)
    torch.manual_seed(7)
    assert torch.equal(outputs(boosted, front, features), expected)


@pytest.mark.parametrize("make", [tagger, transcriber])
@pytest.mark.parametrize("injection", ["add", "concat"])
def test_shared_weights_start_equal(make, injection):
    baseline, boosted = pair(make, injection=injection)
    weights = boosted.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in baseline.state_dict().items())
    assert {name.split(".")[0] for name in weights.keys() - baseline.state_dict().keys()} == {"inject"}


@pytest.mark.parametrize("make", [tagger, transcriber])
@pytest.mark.parametrize("injection", ["add", "concat"])
def test_gradients_reach_the_injection_and_everything_else(make, injection):
    _, boosted = pair(make, injection=injection)
    front, features = inputs()
    optimiser = torch.optim.SGD(boosted.parameters(), 0.1)
    for _ in range(2):  # after one step the projection is no longer zero and the norm before it learns as well
        optimiser.zero_grad()
        outputs(boosted, front, features).square().sum().backward()
        optimiser.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in boosted.parameters())


@pytest.mark.parametrize("make", [tagger, transcriber])
def test_features_must_fit_the_network(make):
    front, features = inputs()
    baseline, boosted = pair(make)
    with pytest.raises(ValueError, match="takes no features"):
        baseline(front, features)
    with pytest.raises(ValueError, match="needs features"):
        boosted(front)


@pytest.mark.parametrize("pooling", ["attention", "mean", "attention_mean_max"])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_tagger_options(pooling, kernel_size):
    network = tagger(pooling=pooling, kernel_size=kernel_size, layers=2)
    assert network(inputs()[0]).shape == (3, 4)


def test_padding_of_a_clip_does_not_count():
    network = tagger().eval()
    front, _ = inputs()
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 4:] = False
    assert torch.allclose(network(front, mask=mask)[1], network(front[1:2, :4])[0], atol=1e-5)


def test_token_out_is_for_training_only():
    network = tagger(dropout=0.0, token_out=0.5)
    front, _ = inputs()
    assert not torch.equal(network.train()(front), network(front))
    assert torch.equal(network.eval()(front), network(front))


def test_transcriber_starts_at_the_priors_and_sees_its_context():
    network = transcriber().eval()
    front, _ = inputs()
    maps = network(front)
    assert all(each.shape == (3, 9, PITCHES) for each in maps)
    assert maps.onset.sigmoid().mean() < 0.1
    changed = front.clone()
    changed[:, 4] += 1
    differs = (network(changed).onset != maps.onset).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]
