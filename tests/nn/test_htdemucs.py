import threading

import demucs.htdemucs
import pytest
import torch
from demucs.apply import apply_model

from sonido_bench.errors import ConfigError
from sonido_bench.nn.htdemucs import Branches, HTDemucs

DIMS = {"top": 5, "mid": 3}
TINY = {"channels": 8, "t_layers": 2, "t_heads": 2, "n_fft": 2048, "sample_rate": 8000, "segment_seconds": 1.0}
RELEASED = {"dconv_mode": 3, "bottom_channels": 512, "segment_seconds": 7.8}


def tiny(feature_dims=None, **options):
    return HTDemucs(("drums", "rest"), **{**TINY, **options}, feature_dims=feature_dims)


def stock(**options):
    return demucs.htdemucs.HTDemucs(
        ["drums", "rest"], channels=8, t_layers=2, t_heads=2, nfft=2048, samplerate=8000, segment=1, **options
    )


def pair(**options):
    torch.manual_seed(3)
    baseline = tiny(**options)
    after_baseline = torch.rand(1)
    torch.manual_seed(3)
    boosted = tiny(DIMS, **options)
    assert torch.equal(torch.rand(1), after_baseline), "construction must draw the same random numbers"
    return baseline, boosted


def mixture(samples=8000, batch=2):
    return torch.randn(batch, 2, samples, generator=torch.Generator().manual_seed(0))


def features_for(network, samples=8000, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Branches(
        *(
            {name: torch.randn(batch, frames, dim, generator=generator) for name, dim in DIMS.items()}
            for frames in network.frames(samples)
        )
    )


def awaken(network, size=1.0):
    """Give the projections weights, as if they had been trained."""
    generator = torch.Generator().manual_seed(2)
    for name, weight in network.named_parameters():
        if "projections" in name:
            weight.data.copy_(size * torch.randn(weight.shape, generator=generator))
    return network


@pytest.mark.parametrize(("options", "parameters"), [({}, 26_899_536), (RELEASED, 41_984_456)])
def test_has_the_published_number_of_parameters(options, parameters):
    with torch.device("meta"):
        assert sum(weight.numel() for weight in HTDemucs(**options).parameters()) == parameters


@pytest.mark.parametrize("options", [{}, {"bottom_channels": 8, "dconv_mode": 3}])
@pytest.mark.parametrize("feature_dims", [None, DIMS])
def test_published_weights_load_and_give_the_published_estimates(options, feature_dims):
    published, network = stock(**options).eval(), tiny(feature_dims, **options).eval()
    network.load_published(published.state_dict())
    features = features_for(network) if feature_dims else None
    with torch.no_grad():
        assert torch.equal(network(mixture(), features), published(mixture()))
        assert torch.equal(network(mixture(5001), features), published(mixture(5001)))


@pytest.mark.parametrize("training", [False, True])
def test_magnitudes_with_the_phase_of_the_mixture_are_those_of_demucs(training):
    torch.manual_seed(0)
    published = stock(cac=False, wiener_iters=-1, end_iters=-1).train(training)
    network = tiny(cac=False).train(training)
    network.load_published(published.state_dict())
    with torch.no_grad():
        assert torch.equal(network(mixture()), published(mixture()))


def test_weights_of_another_network_are_refused():
    with pytest.raises(ConfigError, match="unknown: channel_downsampler"):
        tiny().load_published(stock(bottom_channels=8).state_dict())


def test_published_inference_accepts_the_baseline():
    published, network = stock(), tiny()
    network.load_published(published.state_dict())
    estimates = [apply_model(model, mixture(20001, batch=1), shifts=0) for model in (published, network)]
    assert torch.equal(*estimates)


@pytest.mark.parametrize("options", [{}, {"bottom_channels": 8}])
@pytest.mark.parametrize("training", [False, True])
def test_features_change_nothing_at_step_0(options, training):
    baseline, boosted = (network.train(training) for network in pair(t_dropout=0.2, **options))
    assert all(torch.equal(boosted.state_dict()[name], value) for name, value in baseline.state_dict().items())
    torch.manual_seed(7)
    expected = baseline(mixture(7001))
    torch.manual_seed(7)
    assert torch.equal(boosted(mixture(7001), features_for(boosted, 7001)), expected)


def test_gradients_reach_the_injections_of_both_branches_and_everything_else():
    _, boosted = pair()
    optimiser = torch.optim.SGD(boosted.parameters(), 0.1)
    for _ in range(2):  # after one step the projections are no longer zero and the norms before them learn as well
        optimiser.zero_grad()
        boosted(mixture(), features_for(boosted)).square().sum().backward()
        optimiser.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in boosted.parameters())


@pytest.mark.parametrize("branch", ["freq", "time"])
def test_each_branch_listens_to_its_features(branch):
    network = awaken(tiny(DIMS)).eval()
    features = features_for(network)
    others = features._replace(**{branch: getattr(features_for(network, seed=9), branch)})
    with torch.no_grad():
        assert not torch.equal(network(mixture(), features), network(mixture(), others))


def test_all_rows_of_a_frame_get_the_same_and_frames_their_own():
    network = awaken(tiny(DIMS)).eval()
    seen = []
    network.crosstransformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    features = features_for(network)
    silent = Branches(*({name: torch.zeros_like(stream) for name, stream in branch.items()} for branch in features))
    with torch.no_grad():
        network(mixture(), silent)
        network(mixture(), features)
    (x, xt), (x_injected, xt_injected) = seen
    added = x_injected - x
    assert torch.allclose(added, added[:, :, :1].expand_as(added), atol=1e-4)
    expected = network.inject_freq(torch.zeros(2, x.shape[3], x.shape[1]), features.freq).mT
    assert torch.allclose(added[:, :, 0], expected, atol=1e-4)
    expected = network.inject_time(torch.zeros(2, xt.shape[2], xt.shape[1]), features.time).mT
    assert torch.allclose(xt_injected - xt, expected, atol=1e-4)


def hidden(network, audio):
    """What enters the transformer: ``(width, rows, frames)`` and ``(width, frames)``."""
    seen = []
    handle = network.crosstransformer.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    with torch.no_grad():
        network(audio)
    handle.remove()
    return [each[0] for each in seen]


def test_grids_say_where_the_frames_lie():
    """A click changes the frames around it, in the mean over its places within a frame at its own time.

    Frames taken for half a frame too early or too late would be off by 0.5. The filters are made symmetric, since
    random ones lean to one side.
    """
    torch.manual_seed(1)
    network = tiny().eval()
    for weight in [*network.encoder.parameters(), *network.tencoder.parameters()]:
        if weight.ndim > 2:
            weight.data.copy_((weight.data + weight.data.flip(-1)) / 2)
    audio = mixture(batch=1)
    silent = hidden(network, audio)
    errors = Branches([], [])
    for position in range(4000, 4512, 32):
        clicked = audio.clone()
        clicked[..., position] += 100
        found = zip(network.grids, silent, hidden(network, clicked), errors, strict=True)
        for grid, before, after, branch_errors in found:
            change = (after - before).square().flatten(0, -2).sum(0)
            centre = (change * grid.centres(len(change))).sum() / change.sum()
            branch_errors.append((centre - position / 8000) * grid.frame_rate)
    assert all(abs(torch.stack(branch_errors).mean()) < 0.2 for branch_errors in errors)


@pytest.mark.parametrize("samples", [8000, 7999, 5001, 700])
@pytest.mark.parametrize("training", [False, True])
def test_frames_are_counted_as_the_network_makes_them(samples, training):
    network = tiny().train(training)
    x, xt = hidden(network, mixture(samples))
    assert network.frames(samples) == (x.shape[-1], xt.shape[-1])


def test_published_frames_of_two_seconds():
    with torch.device("meta"):
        network = HTDemucs(channels=16, t_layers=1, segment_seconds=2.0)
    assert network.frames(88200) == (87, 345)
    assert network.grids.freq.first_centre == 512 / 44100
    assert network.grids.time.frame_rate == 44100 / 256


def test_input_longer_than_the_segment_is_refused_in_evaluation_only():
    network = tiny()
    with torch.no_grad():
        assert network(mixture(9000)).shape == (2, 2, 2, 9000)
        with pytest.raises(ValueError, match=r"at most 8000 samples \(1 s.*got 9000.*separation"):
            network.eval()(mixture(9000))


def test_training_leaves_the_segment_alone():
    network = tiny()
    network(mixture(3000))
    assert network.segment == 1
    assert "crosstransformer" not in vars(network)


@pytest.mark.parametrize("shape", [(2, 8000), (1, 1, 8000), (1, 2, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, 2, samples\)"):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "at least 8 channels"),
        ({"t_layers": 0}, "t_layers 0"),
        ({"t_heads": 3}, "heads divide its width of 64"),
        ({"depth": 5}, "n_fft above 4096 for a depth of 5"),
        ({"n_fft": 1024}, "n_fft above 1024"),
    ],
)
def test_sizes_that_cannot_run_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_features_must_fit_the_network():
    baseline, boosted = pair()
    features = features_for(boosted)
    with pytest.raises(ValueError, match="takes no features"):
        baseline(mixture(), features)
    with pytest.raises(ValueError, match="needs features"):
        boosted(mixture())
    with pytest.raises(ValueError, match="align it first"):
        boosted(mixture(), Branches(features.time, features.freq))


def test_threads_do_not_mix_up_their_features():
    network = awaken(tiny(DIMS)).eval()
    features = [features_for(network, seed=seed) for seed in range(4)]
    with torch.no_grad():
        expected = [network(mixture(), each) for each in features]
    found = [None] * len(features)

    def run(index):
        with torch.no_grad():
            found[index] = network(mixture(), features[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(features))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
