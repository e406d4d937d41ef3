import math
from dataclasses import replace

import pytest
import torch

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.sonido.blocks import Downsample, ResidualBlock, Upsample, unit_power_start
from sonido_bench.foundation.sonido.config import FrontEndConfig, LevelConfig, StageOneConfig
from sonido_bench.foundation.sonido.hqvae import HQVAE

LEVELS = ("top", "mid", "bottom")


def spectral(layers=1, **changes):
    config = StageOneConfig(
        levels=tuple(
            LevelConfig(name, stride, 16, 1, 8, 3, layers if name == "mid" else 1)
            for name, stride in zip(LEVELS, (4, 2, 1), strict=True)
        ),
        sample_rate=8000,
        front_end=FrontEndConfig("log_frequency", 128, 12, 4, 110.0),
        bands=4,
        auxiliary_weight=0.5,
    )
    return replace(config, **changes)


def waveform(**changes):
    levels = tuple(
        LevelConfig(name, stride, width, 1, 8, 3)
        for name, stride, width in zip(LEVELS, (24, 12, 4), (8, 6, 4), strict=True)
    )
    return replace(StageOneConfig(levels, 8000, FrontEndConfig(bins_per_octave=12, octaves=4, f_min=110.0)), **changes)


def music(batch=3, samples=6144, seed=0):
    """Chords of random notes, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    notes = 110 * 2 ** (torch.randint(0, 40, (batch, 4, 1), generator=generator) / 12)
    time = torch.arange(samples) / 8000
    gates = (torch.sin(2 * torch.pi * (1 + notes % 3) * time) > 0).float()
    audio = (gates * torch.sin(2 * torch.pi * notes * time)).mean(dim=1)
    return 0.5 * audio + 0.01 * torch.randn(batch, samples, generator=generator)


def started(config, seed=0, quantizer="stochastic"):
    torch.manual_seed(seed)
    model = HQVAE(config, quantizer)
    for block in model.modules():
        if isinstance(block, ResidualBlock):  # they start as the identity, which would hide what they do
            torch.nn.init.normal_(block.across.weight)
    model.initialise([music(4, seed=seed), music(2, 3072, seed=seed + 1)], torch.Generator().manual_seed(seed))
    return model


CONFIGS = [
    pytest.param(spectral(), id="spectral"),
    pytest.param(spectral(layers=2), id="residual"),
    pytest.param(waveform(stft_weight=0.5, auxiliary_weight=0.5), id="waveform"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_shapes_are_those_of_the_configuration(config):
    model = started(config)
    audio = music(2)
    tokens, latents = model.encode(audio), model.latents(audio)
    assert tuple(tokens) == tuple(latents) == model.levels == LEVELS
    for level in LEVELS:
        frames = audio.shape[1] // model.hop(level)
        assert tokens[level].shape == (2, frames, model.codebooks(level))
        assert latents[level].shape == (2, frames, model.code_dim(level))
        assert model.embed(level, tokens[level]).shape == latents[level].shape
        assert model.codes(level).shape == (model.codebooks(level), 8, 3)
    assert model.decode(tokens).shape == model.front_end(audio).shape


@pytest.mark.parametrize("config", CONFIGS)
def test_a_batch_is_its_items_one_by_one_in_either_mode(config):
    model, audio = started(config).train(), music(3)
    together = model.encode(audio)
    for index in range(3):
        alone = model.eval().encode(audio[index : index + 1])
        for level in LEVELS:
            assert (alone[level] == together[level][index : index + 1]).float().mean() > 0.995  # ties of rounding


@pytest.mark.parametrize("config", CONFIGS)
def test_tokens_are_the_codes_nearest_to_the_latents(config):
    model, audio = started(config), music(2)
    tokens, latents = model.encode(audio), model.latents(audio)
    for level in LEVELS:
        points = latents[level].unflatten(2, (model.codebooks(level), 3)).flatten(0, 1).transpose(0, 1)
        assert torch.equal(torch.cdist(points, model.codes(level)).argmin(dim=2).T, tokens[level].flatten(0, 1))


@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_beyond_the_receptive_field_changes_a_token(config):
    model, audio = started(config), music(1, 24_576)
    changed = audio.clone()
    latents = model.latents(audio)
    for level in LEVELS:
        hop, field = model.hop(level), model.receptive_field[level]
        frame = 12_288 // hop
        margin = (field - hop) // 2
        changed = audio.clone()
        changed[:, : frame * hop - margin] = 0.1
        changed[:, (frame + 1) * hop + margin :] = -0.1
        torch.testing.assert_close(model.latents(changed)[level][:, frame], latents[level][:, frame], atol=1e-3, rtol=0)


def test_finer_levels_can_be_left_out():
    model, audio = started(spectral()), music(2)
    full, part = model.encode(audio), model.encode(audio, down_to="mid")
    assert list(part) == ["top", "mid"]
    assert all(torch.equal(part[level], full[level]) for level in part)
    assert list(model.latents(audio, down_to="top")) == ["top"]


def test_the_loss_is_the_bound_over_the_number_of_dimensions():
    model, audio = started(spectral()).eval(), music(2)
    output = model(audio, kl_weight=0.25)
    data, tokens = model.front_end(audio), model.encode(audio)
    dimensions = data[0].numel()
    squared_error = (data - model.decode(tokens)).square().sum(dim=(1, 2)).mean()
    latents = model.latents(audio)
    continuous = sum(
        (latents[level] - model.embed(level, tokens[level])).square().sum() / 2 / model.stages[level].quantizer.variance
        for level in LEVELS
    )
    bound = dimensions / 2 * squared_error.log() + 0.25 * continuous / len(audio)  # no entropy at inference
    expected = bound / dimensions - 0.5 * math.log(dimensions) + 0.5 * output.auxiliary
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.metrics["mse"], squared_error / dimensions)


@pytest.mark.parametrize("quantizer", ["stochastic", "ema"])
@pytest.mark.parametrize("config", CONFIGS)
def test_training_reconstructs_and_every_parameter_learns(config, quantizer):
    model, audio = started(config, quantizer=quantizer).train(), music(4)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        output = model(audio, temperature=0.5, kl_weight=0.1)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.reconstruction.detach()))
    model.restart_dead_codes()
    assert losses[-1] < losses[0]
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(torch.isfinite(value) for value in output.metrics.values())
    assert {"mse", "lsd", "top/perplexity", "mid/used", "bottom/variance"} <= output.metrics.keys()
    assert ("si_snr" in output.metrics) == (config.front_end.kind == "waveform")


def test_more_levels_reconstruct_better_once_trained():
    torch.manual_seed(0)
    model, audio = started(spectral()).train(), music(8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(50):
        optimizer.zero_grad()
        model(audio, temperature=0.3, kl_weight=0.1).loss.backward()
        optimizer.step()
    model.eval()
    tokens, data = model.encode(audio), model.front_end(audio)
    prefixes = [{level: tokens[level] for level in LEVELS[:count]} for count in (1, 2, 3)]
    errors = [float((model.decode(prefix) - data).square().mean().detach()) for prefix in prefixes]
    assert errors[0] > errors[1] > errors[2]


def test_the_same_seed_starts_the_same_model():
    first, second = started(spectral()).state_dict(), started(spectral()).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    tensors = [value.data_ptr() for value in first.values() if value.numel() > 1]
    assert len(tensors) == len(set(tensors))  # nothing is stored twice


def test_layers_start_at_unit_power_and_leave_no_hooks():
    down, up = Downsample(4, 8, 6, 2), Upsample(8, 4, 6, 2)
    signal = 1e-3 * torch.randn(2, 4, 60)
    with torch.no_grad(), unit_power_start(down), unit_power_start(up):
        up(down(signal))
    assert float(down(signal).std().detach()) == pytest.approx(1, abs=1e-3)
    assert up(down(signal)).shape == signal.shape
    assert not any(layer._forward_hooks for layer in [*down.modules(), *up.modules()])


@pytest.mark.parametrize("ratio", [1, 2, 6])
def test_changes_of_rate_undo_each_other_in_length(ratio):
    down, up = Downsample(8, 8, ratio, 2), Upsample(8, 8, ratio, 2)
    signal = torch.randn(2, 8, 60)
    assert down(signal).shape == (2, 8, 60 // ratio)
    assert up(down(signal)).shape == signal.shape
    if ratio == 1:
        assert torch.equal(up(down(signal)), signal)


def test_blocks_start_as_the_identity():
    signal = torch.randn(2, 8, 60)
    assert torch.equal(ResidualBlock(8, 2, 1)(signal), signal)


@pytest.mark.parametrize("kind", [Downsample, Upsample])
def test_a_change_of_channels_without_a_change_of_rate_is_refused(kind):
    with pytest.raises(ConfigError, match="a ratio of 1 keeps the channels, expected 4, got 8"):
        kind(4, 8, 1)


@pytest.mark.parametrize("shape", [(512,), (2, 0), (2, 513)])
def test_audio_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="samples a multiple of 512"):
        HQVAE(spectral()).encode(torch.zeros(shape))


def test_tokens_that_do_not_fit_together_are_refused():
    model = HQVAE(spectral())
    tokens = model.encode(music(1, 5120))
    with pytest.raises(ValueError, match="expected tokens of the coarsest of"):
        model.decode({"mid": tokens["mid"]})
    with pytest.raises(ValueError, match="expected 20 frames of mid, got 19"):
        model.decode({"top": tokens["top"], "mid": tokens["mid"][:, :19]})
    with pytest.raises(ValueError, match=r"expected a level of .*, got bass"):
        model.encode(music(1, 5120), down_to="bass")


def test_bands_that_do_not_divide_the_widths_are_refused():
    with pytest.raises(ConfigError, match="multiples of the 3 bands"):
        HQVAE(spectral(bands=3))


def test_too_little_audio_to_start_from_is_refused():
    with pytest.raises(DataError, match="at least 8 finite points, found 2 points"):
        HQVAE(spectral()).initialise([music(1, 1024)])
