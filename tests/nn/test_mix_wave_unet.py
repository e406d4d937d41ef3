import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sonido_bench.nn.mix_wave_unet import FxNormWaveUNet, MixWaveUNet


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_numbers_of_parameters():
    with torch.device("meta"):
        assert count(MixWaveUNet(stems=4)) == 17_833_426
        assert count(MixWaveUNet(stems=8)) == 17_836_002
        assert count(FxNormWaveUNet()) == 2_477_162
        assert sum(each.numel() for each in FxNormWaveUNet().parameters() if each.requires_grad) == 2_455_562


def test_mix_wave_unet_equals_its_layers_one_by_one():
    torch.manual_seed(0)
    network = MixWaveUNet(stems=1, layers=2, growth=3, kernel_size=5).eval()
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm1d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    stems = torch.randn(2, 1, 2, 64)
    inputs = stems[:, 0]

    def conv(audio, layer, stride=1):
        return F.conv1d(audio, layer.weight, layer.bias, stride, layer.weight.shape[-1] // 2)

    def block(audio, module):
        norm = module.norm
        normed = F.batch_norm(conv(audio, module.conv), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return F.prelu(normed, module.activate.weight)

    first = block(inputs, network.encoder[0])
    second = block(conv(first, network.encoder[0].halve, 2), network.encoder[1])
    hidden = conv(conv(second, network.encoder[1].halve, 2), network.bottleneck)
    assert [hidden.shape[-1], second.shape[-1]] == [16, 32]
    for skip, up in ((second, network.decoder[0]), (first, network.decoder[1])):
        hidden = block(torch.cat([F.interpolate(hidden, scale_factor=2, mode="nearest"), skip], dim=1), up)
    expected = conv(torch.cat([inputs, hidden], dim=1), network.output)
    assert torch.allclose(network(stems), expected, atol=1e-6)


@pytest.mark.parametrize("output_kernel", [1, 5])
def test_mix_wave_unet_can_start_from_the_sum_of_the_stems(output_kernel):
    arguments = {"layers": 2, "growth": 3, "kernel_size": 5, "output_kernel": output_kernel}
    network = MixWaveUNet(stems=3, start_from_sum=True, input_scale=8.0, **arguments)
    stems = torch.randn(2, 3, 2, 64)
    mix = network(stems)
    torch.testing.assert_close(mix, stems.sum(1))
    mix.square().sum().backward()
    assert network.output.weight.grad[:, 6:].abs().sum() > 0  # what the levels give is learned
    assert count(network) == count(MixWaveUNet(stems=3, **arguments))


def test_mix_wave_unet_in_other_units():
    torch.manual_seed(0)
    plain = MixWaveUNet(stems=1, layers=2, growth=3, kernel_size=5).eval()
    scaled = MixWaveUNet(stems=1, layers=2, growth=3, kernel_size=5, input_scale=4.0).eval()
    scaled.load_state_dict(plain.state_dict())
    stems = torch.randn(1, 1, 2, 64)
    assert torch.equal(scaled(stems), plain(4 * stems) / 4)
    with pytest.raises(ValueError, match="positive input_scale"):
        MixWaveUNet(input_scale=0.0)


def test_hidden_frames_of_mix_wave_unet_are_centred_where_the_grid_says():
    """What a frame of the bottleneck sees lies evenly around its centre."""
    network = MixWaveUNet(stems=1, layers=3, growth=2, kernel_size=5, feature_dims={"top": 2}).eval()
    stems = torch.randn(1, 1, 2, 256, requires_grad=True)
    seen = []
    network.inject.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    network(stems, {"top": torch.zeros(1, network.frames(256), 2)})
    frame = 16
    seen[0][0, frame].sum().backward()
    support = stems.grad[0, 0].abs().sum(0).nonzero()
    centre = network.grid.centres(frame + 1)[frame].item() * 44_100
    assert (support.min() + support.max()).item() / 2 == pytest.approx(centre)
    assert network.grid.frame_rate == 44_100 / 8


def test_fxnorm_wave_unet_equals_valid_convolutions():
    torch.manual_seed(0)
    network = FxNormWaveUNet(stems=1, widths=(8, 16)).train()
    stems = torch.randn(2, 1, 2, 40)

    def block(audio, module):
        norm = module.norm
        convolved = F.conv1d(audio, module.conv.weight, module.conv.bias)
        return F.group_norm(convolved, norm.num_groups, norm.weight, norm.bias).relu()

    margin = 2 + 4 + 4  # half a kernel of 5 taps, in 2 convolutions before, 1 at and 2 after the bottleneck
    audio = F.pad(stems[:, 0], (margin, margin))
    down, up = network.encoder[0], network.decoder[0]
    skip = block(audio, down.before)
    hidden = block(block(block(skip, down.after), network.bottleneck), up.before)
    crop = (skip.shape[-1] - hidden.shape[-1]) // 2
    joined = torch.cat([skip[..., crop:-crop], hidden], dim=1)
    expected = F.conv1d(block(joined, up.after), network.output.weight, network.output.bias)
    assert expected.shape == (2, 2, 40)
    assert torch.allclose(network(stems), expected, atol=1e-6)


def test_published_fxnorm_wave_unet_loses_34_samples_on_each_side():
    with torch.device("meta"):
        assert FxNormWaveUNet()._margin == 34


def test_frozen_filters_are_the_published_ones():
    """A windowed sinc with its cut-off at half the sample rate, normalised: one, and zeros up to rounding."""
    taps = FxNormWaveUNet(widths=(8, 16)).encoder[0].resample.taps
    assert not taps.requires_grad
    expected = torch.sinc(torch.arange(-7.0, 8.0)) * torch.blackman_window(15, periodic=False)
    assert torch.allclose(taps, expected.expand_as(taps), atol=1e-6)


def test_features_of_fxnorm_wave_unet_act_around_the_centre_of_their_frame():
    torch.manual_seed(0)
    network = FxNormWaveUNet(stems=1, widths=(8, 16), feature_hop=32, feature_dims={"top": 3}).eval()
    for module in list(network.modules()):
        if hasattr(module, "norm"):
            module.norm = nn.Identity()  # it spreads every sample over the whole clip
    nn.init.normal_(network.inject.injection.projections["top"].weight)
    stems, frame = 0.1 * torch.randn(1, 1, 2, 200), 3
    features = {"top": torch.randn(1, network.frames(200), 3)}
    before = network(stems, features)
    features["top"][:, frame] += torch.randn(3)
    changed = (network(stems, features) != before).any(dim=1)[0].nonzero()
    centre = network.grid.centres(frame + 1)[frame].item() * 44_100
    assert (changed.min() + changed.max()).item() / 2 == pytest.approx(centre)


def test_fxnorm_wave_unet_clips_outside_training_only():
    network = FxNormWaveUNet(stems=1, widths=(8, 16))
    nn.init.constant_(network.output.bias, 5.0)
    stems = torch.randn(1, 1, 2, 50)
    assert network.train()(stems).max() > 1
    assert network.eval()(stems).abs().max() == 1


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (MixWaveUNet, {"layers": 0}, "at least 1 layer"),
        (MixWaveUNet, {"kernel_size": 4}, "odd"),
        (MixWaveUNet, {"output_kernel": 2}, "odd"),
        (FxNormWaveUNet, {"widths": (8,)}, "at least two widths"),
        (FxNormWaveUNet, {"widths": (8, 12)}, "multiples of 8"),
        (FxNormWaveUNet, {"kernel_size": 4}, "odd"),
    ],
)
def test_bad_sizes_are_refused(network, options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)
