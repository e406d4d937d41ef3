import numpy as np
import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.features.spec import FrameGrid
from sonido_bench.nn.standardise import Standardise
from sonido_bench.nn.umx import UMX

DIMS = {"top": 5, "mid": 3}
TINY = {"n_fft": 64, "hop_length": 16, "sample_rate": 8000, "bandwidth_hz": 3000.0, "width": 8, "layers": 2}
RELEASED = {
    "input_mean": (1487,),
    "input_scale": (1487,),
    "output_mean": (2049,),
    "output_scale": (2049,),
    "fc1.weight": (512, 2974),
    "fc2.weight": (512, 1024),
    "fc3.weight": (4098, 512),
    **{
        f"{norm}.{name}": (width,)
        for norm, width in (("bn1", 512), ("bn2", 512), ("bn3", 4098))
        for name in ("weight", "bias", "running_mean", "running_var")
    },
    **{
        f"lstm.{name}_l{layer}{direction}": shape
        for layer in range(3)
        for direction in ("", "_reverse")
        for name, shape in (
            ("weight_ih", (1024, 512)),
            ("weight_hh", (1024, 256)),
            ("bias_ih", (1024,)),
            ("bias_hh", (1024,)),
        )
    },
    **{f"{norm}.num_batches_tracked": () for norm in ("bn1", "bn2", "bn3")},
}
"""Names and shapes of a target of UMXHQ, as its code of 2019 defines them."""
BESIDE = {"sample_rate": (), "stft.window": (4096,), "transform.0.window": (4096,)}


def tiny(feature_dims=None, targets=("vocals", "rest"), **options):
    return UMX(targets, **{**TINY, **options}, feature_dims=feature_dims)


def pair(**options):
    torch.manual_seed(3)
    baseline = tiny(**options)
    after_baseline = torch.rand(1)
    torch.manual_seed(3)
    boosted = tiny(DIMS, **options)
    assert torch.equal(torch.rand(1), after_baseline), "construction must draw the same random numbers"
    return baseline, boosted


def inputs():
    generator = torch.Generator().manual_seed(0)
    magnitude = torch.rand(3, 2, 33, 7, generator=generator)
    return magnitude, {name: torch.randn(3, 7, dim, generator=generator) for name, dim in DIMS.items()}


def random_state(shapes):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(shape, generator=generator) + 0.5 for name, shape in shapes.items()}


def released_state():
    counters = {name: torch.tensor(7) for name in RELEASED if name.endswith("num_batches_tracked")}
    return {**random_state(RELEASED | BESIDE), **counters}


def test_a_target_has_the_published_number_of_parameters():
    network = UMX(("vocals",))
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_893_348
    assert {name: tuple(weight.shape) for name, weight in network.networks["vocals"].state_dict().items()} == RELEASED


def test_released_weights_load_and_injections_stay():
    network = UMX(("vocals",), feature_dims=DIMS)
    state = released_state()
    network.load_target("vocals", state)
    loaded = network.networks["vocals"].state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in RELEASED)
    assert all(weight.abs().sum() == 0 for name, weight in loaded.items() if "projections" in name)


def test_weights_of_another_network_are_refused():
    network = UMX(("vocals",))
    state = released_state()
    del state["fc2.weight"]
    state["fc4.weight"] = torch.zeros(2)
    state["fc1.weight"] = torch.zeros(1024, 2974)
    with pytest.raises(ConfigError, match=r"missing: fc2.weight .*unknown: fc4.weight.*fc1.weight \(1024, 2974\)"):
        network.load_target("vocals", state)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(weights, x, layer, suffix, reverse):
    """One direction of one layer over ``(frames, input)``, gate by gate (Hochreiter & Schmidhuber; torch's order)."""
    get = [weights[f"lstm.{name}_l{layer}{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    hidden = cell = np.zeros(get[1].shape[1])
    outputs = []
    for frame in x[::-1] if reverse else x:
        i, f, g, o = np.split(get[0] @ frame + get[2] + get[1] @ hidden + get[3], 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs[::-1] if reverse else outputs)


def reference(weights, magnitude, layers):
    """The published network in evaluation, written out in NumPy for one item ``(channels, bins, frames)``."""

    def norm(name, x):
        scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + 1e-5)
        return (x - weights[f"{name}.running_mean"]) * scale + weights[f"{name}.bias"]

    seen = len(weights["input_mean"])
    x = (magnitude[:, :seen].transpose(2, 0, 1) + weights["input_mean"]) * weights["input_scale"]
    x = np.tanh(norm("bn1", x.reshape(len(x), -1) @ weights["fc1.weight"].T))
    hidden = x
    for layer in range(layers):
        both = [lstm(weights, hidden, layer, suffix, suffix != "") for suffix in ("", "_reverse")]
        hidden = np.concatenate(both, axis=1)
    x = np.maximum(norm("bn2", np.concatenate([x, hidden], axis=1) @ weights["fc2.weight"].T), 0)
    mask = norm("bn3", x @ weights["fc3.weight"].T).reshape(len(x), *magnitude.shape[:2])
    mask = np.maximum(mask * weights["output_scale"] + weights["output_mean"], 0)
    return mask.transpose(1, 2, 0) * magnitude


def test_agrees_with_the_published_equations():
    network = tiny().double().eval()
    generator = torch.Generator().manual_seed(2)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) * 0.8 + 0.1)
    magnitude = inputs()[0].double()
    with torch.no_grad():
        estimates = network(magnitude)
    assert estimates.shape == (3, 2, 2, 33, 7)
    for index, target in enumerate(network.targets):
        weights = {name: value.numpy() for name, value in network.networks[target].state_dict().items()}
        expected = np.stack([reference(weights, item.numpy(), 2) for item in magnitude])
        assert np.allclose(estimates[:, index].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_features_change_nothing_at_step_0(training):
    baseline, boosted = (network.train(training) for network in pair())
    magnitude, features = inputs()
    torch.manual_seed(7)
    expected = baseline(magnitude)
    torch.manual_seed(7)
    assert torch.equal(boosted(magnitude, features), expected)
    assert all(torch.equal(boosted.state_dict()[name], value) for name, value in baseline.state_dict().items())


@pytest.mark.parametrize("injection", ["add", "concat"])
def test_gradients_reach_every_injection_and_everything_else(injection):
    _, boosted = pair(injection=injection)
    magnitude, features = inputs()
    optimiser = torch.optim.SGD(boosted.parameters(), 0.1)
    for _ in range(2):  # after one step the projections are no longer zero and the norms before them learn as well
        optimiser.zero_grad()
        boosted(magnitude, features).square().sum().backward()
        optimiser.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in boosted.parameters())


def test_features_must_fit_the_network():
    baseline, boosted = pair()
    magnitude, features = inputs()
    with pytest.raises(ValueError, match="takes no features"):
        baseline(magnitude, features)
    with pytest.raises(ValueError, match="needs features"):
        boosted(magnitude)
    with pytest.raises(ValueError, match="align it first"):
        boosted(magnitude, {name: stream[:, :-1] for name, stream in features.items()})


def test_targets_are_independent_and_ordered():
    network = tiny().eval()
    magnitude, _ = inputs()
    estimates = network(magnitude)
    assert torch.equal(estimates[:, 1], network.networks["rest"](magnitude))
    other = tiny().eval()
    other.load_target("vocals", network.networks["vocals"].state_dict())
    changed = other(magnitude)
    assert torch.equal(changed[:, 0], estimates[:, 0])
    assert not torch.equal(changed[:, 1], estimates[:, 1])


def test_the_mask_covers_bins_beyond_the_bandwidth():
    network = tiny().eval()
    magnitude, _ = inputs()
    changed = magnitude.clone()
    changed[:, :, 25:] *= 2  # bin 24 is 3000 Hz
    assert torch.allclose(network(changed)[..., 25:, :], 2 * network(magnitude)[..., 25:, :])
    assert torch.equal(network(changed)[..., :25, :], network(magnitude)[..., :25, :])


def test_input_starts_at_the_statistics_of_the_training_set():
    network = tiny()
    magnitude, _ = inputs()
    statistics = Standardise(33)
    rows = UMX.statistics_rows(magnitude)
    for part in rows:
        statistics.update(part)
    network.initialise_input(statistics)
    flat = rows.reshape(-1, 33)[:, :25]
    for target in network.networks.values():
        assert torch.allclose(target.input_mean, -flat.mean(0), atol=1e-6)
        assert torch.allclose(target.input_scale, 1 / flat.std(0, correction=0), rtol=1e-4)
    with pytest.raises(ValueError, match="33 bins, got 0 rows"):
        network.initialise_input(Standardise(33))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"targets": ()}, "different names"), ({"targets": ("a", "a")}, "different names"), ({"width": 7}, "even width")],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize(("centred", "frames", "first"), [(True, 259, 0), (False, 255, 2048)])
def test_published_frames_of_six_seconds(centred, frames, first):
    stft = UMX(("vocals",), width=2).stft(centred)
    assert stft.frames(6 * 44100) == frames
    assert stft.grid == FrameGrid(44100 / 1024, first / 44100)
