import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sonido_bench.nn.crafx2 import CRAFx2


def tiny(**options):
    sizes = {"encoder_width": 8, "encoder_kernel": 16, "pool": 8, "width": 12, "hidden": 10, "skip_width": 6}
    return CRAFx2(stems=2, **(sizes | {"blocks": 2, "repeats": 2, "expansion": 3} | options))


def test_published_number_of_parameters_and_guard():
    with torch.device("meta"):
        network = CRAFx2()
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_752_817
    assert network.context == 505
    assert network.guard_samples == 32_446


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_equals_its_layers_one_by_one():
    """Every step as the original takes it: stems are synthesised before they are summed.

    The original drops 15 samples of the channels before it synthesises, so that the ends differ.
    """
    torch.manual_seed(0)
    network = tiny().eval()
    stems = 0.3 * torch.randn(2, 2, 2, 80)
    channels = F.conv1d(stems.flatten(1, 2), network.analyse.weight, padding="same")
    smooth = F.softplus(F.conv1d(channels.abs(), network.smooth.weight, padding="same", groups=8))
    hidden = network.bottleneck(F.group_norm(F.max_pool1d(smooth, 8), 1, network.norm.weight, network.norm.bias, 1e-8))
    skips = []
    for index, block in enumerate(network.temporal):
        inner = block.depthwise(block.pointwise(hidden))
        assert block.depthwise[0].dilation == (2 ** (index % 2),)
        skips.append(block.skip(inner))
        hidden = hidden + block.residual(inner)
    expanded = network.expand(sum(skips))
    recurrent = F.softplus(network.recurrent(expanded.transpose(1, 2))[0]).transpose(1, 2)
    masked = F.interpolate(recurrent, scale_factor=8, mode="nearest") * channels
    excited = masked * network.excite.gates(masked.abs().mean(-1))[..., None]
    synthesised = F.conv_transpose1d(excited[..., 7:-8], network.analyse.weight)
    expected = synthesised.unflatten(1, (2, 2)).sum(1).tanh()
    assert expected.shape == (2, 2, 80)
    assert torch.allclose(network(stems)[..., 15:-15], expected[..., 15:-15], atol=1e-5)


def test_the_last_residual_layer_counts_but_does_not_wait_for_gradients():
    network = tiny()
    network(torch.randn(1, 2, 2, 64)).sum().backward()
    waiting = {name for name, each in network.named_parameters() if each.requires_grad and each.grad is None}
    assert waiting == set()
    assert not network.temporal[-1].residual.weight.requires_grad
    assert network.temporal[0].residual.weight.requires_grad


def test_hidden_frames_are_centred_where_the_grid_says():
    """What the samples under one pooled frame see lies evenly around its centre."""
    network = tiny()
    stems = torch.randn(1, 2, 2, 256, requires_grad=True)
    seen = []
    network.smooth.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    network(stems)
    frame = 16
    seen[0][0, :, 8 * frame : 8 * frame + 8].sum().backward()
    support = stems.grad[0].abs().sum((0, 1)).nonzero()
    centre = network.grid.centres(frame + 1)[frame].item() * 44_100
    assert (support.min() + support.max()).item() / 2 == pytest.approx(centre)
    assert network.grid.frame_rate == 44_100 / 8


def test_published_frames_are_centred_at_half_a_hop():
    with torch.device("meta"):
        grid = CRAFx2().grid
    assert grid.frame_rate == pytest.approx(689.06, abs=0.01)
    assert grid.first_centre * 44_100 == pytest.approx(32, abs=0.5)


def test_added_features_equal_joined_ones():
    """Adding behind a pointwise convolution is joining before it: the convolution of both is a sum."""
    torch.manual_seed(0)
    network = tiny(feature_dims={"top": 5}).eval()
    projection = network.inject.injection.projections["top"]
    nn.init.normal_(projection.weight)
    hidden, features = torch.randn(2, 8, 10), torch.randn(2, 10, 5)
    normalised = F.layer_norm(features, (5,)) / 5**0.5
    wide = torch.cat([network.bottleneck.weight, projection.weight[..., None]], dim=1)
    joined = F.conv1d(torch.cat([hidden, normalised.transpose(1, 2)], dim=1), wide, network.bottleneck.bias)
    added = network.inject(network.bottleneck(hidden).transpose(1, 2), {"top": features})
    assert torch.allclose(added.transpose(1, 2), joined, atol=1e-5)


def test_forget_gates_start_with_long_memory_and_input_gates_opposite():
    torch.manual_seed(0)
    network = CRAFx2(encoder_width=64, width=8, hidden=8, skip_width=8, blocks=1, repeats=1)
    biases = [bias for name, bias in network.recurrent.named_parameters() if "bias" in name]
    assert len(biases) == 12
    for bias in biases:
        entry, forget, cell, output = bias.detach().chunk(4)
        assert torch.equal(entry, -forget)
        assert not cell.any()
        assert not output.any()
    memory = torch.cat([bias.detach().chunk(4)[1] for bias in biases]).exp()
    assert 1 <= memory.min() < 3
    assert 29 < memory.max() <= 31
    assert memory.mean() == pytest.approx(16, abs=1.5)


def test_front_end_learns_to_autoencode():
    torch.manual_seed(0)
    network = tiny()
    stems = 0.3 * torch.randn(2, 2, 2, 250)
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    losses = []
    for _ in range(80):
        loss = F.l1_loss(network.autoencode(stems), stems)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    trained = {name.split(".")[0] for name, each in network.named_parameters() if each.grad is not None}
    assert trained == {"analyse", "smooth"}


@pytest.mark.parametrize(
    "sizes",
    [
        {"stems": 4, "encoder_width": 16, "recurrent_layers": 1},
        {"stems": 3, "encoder_width": 10, "encoder_kernel": 33},
        {"stems": 4, "encoder_width": 128},
    ],
)
def test_can_start_from_the_sum_of_the_stems(sizes):
    """The error between 100 Hz and 18 kHz, of white noise as loud as music; what is left is the tanh."""
    torch.manual_seed(0)
    arguments = {"width": 12, "hidden": 10, "skip_width": 6, "blocks": 2, "repeats": 1, "expansion": 3} | sizes
    network = CRAFx2(start_from_sum=True, **arguments).eval()
    stems = 0.05 * torch.randn(1, sizes["stems"], 2, 8192) / sizes["stems"] ** 0.5
    expected = stems.sum(1)
    mix = network(stems)
    edge = 64
    spectra = (torch.fft.rfft(audio[..., edge:-edge]) for audio in (mix.detach() - expected, expected))
    frequencies = torch.fft.rfftfreq(8192 - 2 * edge, 1 / 44_100)
    band = (frequencies > 100) & (frequencies < 18_000)
    error, wanted = (spectrum[..., band].abs().square().sum(-1) for spectrum in spectra)
    assert (10 * torch.log10(error / wanted)).max() < -45
    # Not a matter of level: undo the tanh and only rounding is left.
    torch.testing.assert_close(mix.atanh()[..., edge:-edge], expected[..., edge:-edge], atol=1e-5, rtol=1e-4)
    assert sum(map(torch.numel, network.parameters())) == sum(map(torch.numel, CRAFx2(**arguments).parameters()))


def test_masks_and_gates_are_learned_from_the_sum():
    torch.manual_seed(0)
    network = tiny(start_from_sum=True)
    network(torch.randn(1, 2, 2, 64)).square().sum().backward()
    entering = network.recurrent.weight_ih_l2.grad.chunk(4)[2]
    for gradient in (entering, network.excite.gates[2].weight.grad, network.analyse.weight.grad):
        assert gradient.abs().sum() > 0


def test_starts_at_random_as_published():
    torch.manual_seed(0)
    first = tiny().state_dict()
    torch.manual_seed(0)
    second = tiny(start_from_sum=False).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (first["analyse.weight"] != 0).all()
    assert (first["recurrent.weight_ih_l2"] != 0).all()


def test_mix_lies_within_full_scale():
    assert tiny().eval()(50 * torch.randn(1, 2, 2, 100)).abs().max() <= 1


def test_a_clip_shorter_than_the_kernel_is_mixed():
    assert tiny(encoder_kernel=40).eval()(torch.randn(1, 2, 2, 3)).isfinite().all()


@pytest.mark.parametrize("options", [{"kernel_size": 2}, {"encoder_width": 7}, {"blocks": 0}, {"repeats": 0}])
def test_bad_sizes_are_refused(options):
    with pytest.raises(ValueError, match="expected an odd kernel_size"):
        tiny(**options)
