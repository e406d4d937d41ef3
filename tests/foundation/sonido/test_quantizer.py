import math

import pytest
import torch

from sonido_bench.errors import DataError
from sonido_bench.foundation.codebook import EMACodebook
from sonido_bench.foundation.sonido.quantizer import LevelQuantizer, StochasticQuantizer


def brute_force_posterior(latents, codes, variance):
    """P(k | latent), (batch, codebooks, K), by the formula."""
    distances = (latents.double().unsqueeze(2) - codes.double().unsqueeze(0)).square().sum(dim=-1)
    return torch.softmax(-distances / (2 * variance), dim=-1)


def started(codebook_size=8, code_dim=3, bands=2, layers=1, kind="stochastic", seed=0):
    torch.manual_seed(seed)
    quantizer = LevelQuantizer(codebook_size, code_dim, bands, layers, kind)
    quantizer.initialise(torch.randn(4, 50, bands * code_dim), generator=torch.Generator().manual_seed(seed))
    return quantizer


def test_the_entropy_term_is_a_sum_over_positions_and_codebooks():
    quantizer = StochasticQuantizer(6, 3, 2).train()
    latents = torch.randn(10, 2, 3)
    posterior = brute_force_posterior(latents, quantizer.codes, quantizer.variance.item())
    expected = (posterior * posterior.log()).sum()
    torch.testing.assert_close(quantizer(latents, 0.5).negative_entropy.double(), expected, rtol=1e-5, atol=1e-5)


def test_samples_follow_the_posterior_as_the_temperature_falls():
    torch.manual_seed(0)
    quantizer = StochasticQuantizer(4, 2).train()
    latent = torch.randn(1, 1, 2)
    codes = quantizer(latent.expand(20_000, 1, 2), temperature=1e-3).codes[:, 0]
    drawn = torch.cdist(codes, quantizer.codes[0]).argmin(dim=1).bincount(minlength=4) / 20_000
    posterior = brute_force_posterior(latent, quantizer.codes, quantizer.variance.item())[0, 0]
    torch.testing.assert_close(drawn.double(), posterior.detach(), atol=0.02, rtol=0)


def test_inference_takes_the_nearest_code_and_is_repeatable():
    quantizer = started().eval()
    latents = torch.randn(2, 5, 6)
    first, second = quantizer(latents), quantizer(latents)
    codes = quantizer.codes  # (bands, K, d)
    for band in range(2):
        distances = torch.cdist(latents[..., 3 * band : 3 * band + 3], codes[band].expand(2, -1, -1))
        assert torch.equal(first.tokens[..., band], distances.argmin(dim=2))
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.values, quantizer.values(first.tokens))
    assert torch.equal(first.tokens, quantizer.tokens(latents))


def test_the_continuous_term_is_half_the_squared_error_over_the_variance():
    quantizer = started().eval()
    latents = torch.randn(2, 5, 6)
    output = quantizer(latents)
    expected = (latents - output.values).square().sum() / (2 * quantizer.variance)
    torch.testing.assert_close(output.continuous, expected)


def test_residual_layers_are_charged_once_with_the_sum_of_their_variances():
    quantizer = started(layers=3).eval()
    latents = torch.randn(2, 5, 6)
    output = quantizer(latents)
    assert output.tokens.shape == (2, 5, 6)
    assert quantizer.codebooks == 6
    variances = sum(layer.variance for layer in quantizer.layers)
    torch.testing.assert_close(output.continuous, (latents - output.values).square().sum() / (2 * variances))
    parts = quantizer.embed(output.tokens).view(2, 5, 3, 6)
    torch.testing.assert_close(parts.sum(dim=2), output.values)
    targets = quantizer.targets(latents).view(2, 5, 3, 6)
    torch.testing.assert_close(targets[:, :, 0], latents)
    torch.testing.assert_close(targets[:, :, 2], latents - parts[:, :, :2].sum(dim=2))


def test_more_residual_layers_code_better():
    latents = torch.randn(4, 200, 6)
    errors = []
    for layers in (1, 2, 3):
        quantizer = started(layers=layers).eval()
        quantizer.initialise(latents, generator=torch.Generator().manual_seed(0))
        errors.append((latents - quantizer(latents).values).square().mean().item())
    assert errors[0] > errors[1] > errors[2]


def test_the_variance_starts_from_the_error_and_stays_within_its_bounds():
    quantizer = started()
    layer = quantizer.layers[0]
    start = float(layer.variance)
    for position, bound in ((100.0, 3.0), (-100.0, -3.0)):
        with torch.no_grad():
            layer.position.fill_(position)
        assert math.log(float(layer.variance) / start) == pytest.approx(bound, abs=1e-4)


def test_the_variance_has_a_floor_at_its_start():
    quantizer = LevelQuantizer(4, 2)
    corners = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]))
    quantizer.initialise(corners.repeat(1, 10, 1))
    assert float(quantizer.variance) == pytest.approx(0.05)


def test_gradients_reach_latents_codes_and_variance():
    quantizer = started().train()
    latents = torch.randn(2, 5, 6, requires_grad=True)
    output = quantizer(latents, 0.5)
    (output.continuous + output.negative_entropy).backward()
    assert latents.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in quantizer.parameters())


def test_the_terms_are_float32_under_autocast():
    quantizer = started().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = quantizer(torch.randn(2, 5, 6).bfloat16(), 0.5)
    assert {output.values.dtype, output.continuous.dtype, output.negative_entropy.dtype} == {torch.float32}


def test_dead_codes_restart_on_latents_of_the_last_batch_and_live_ones_stay():
    quantizer = started(codebook_size=8, bands=1).train()
    layer = quantizer.layers[0]
    with torch.no_grad():
        layer.codes[0, 5:] = 100.0
    before = layer.codes.detach().clone()
    latents = torch.randn(4, 100, 3)
    for _ in range(120):
        quantizer(latents)
    quantizer.restart_dead_codes()
    assert torch.equal(layer.codes[0, :5], before[0, :5])
    flat = latents.flatten(0, 1)
    assert all((flat == code).all(dim=1).any() for code in layer.codes[0, 5:])
    restarted = layer.codes.detach().clone()
    quantizer.restart_dead_codes()  # they are given time
    assert torch.equal(layer.codes, restarted)


def test_restarting_before_any_training_does_nothing():
    quantizer = started()
    before = quantizer.codes.detach().clone()
    quantizer.restart_dead_codes()
    assert torch.equal(quantizer.codes, before)


def test_health_figures_are_those_of_the_tokens():
    quantizer = started(codebook_size=8, bands=2)
    tokens = torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0]]).view(1, 4, 2)
    figures = quantizer.metrics(tokens)
    assert float(figures["perplexity"]) == pytest.approx(2.5)
    assert float(figures["perplexity_min"]) == pytest.approx(1.0)
    assert float(figures["used"]) == pytest.approx(5 / 16)


def test_the_same_generator_starts_the_same_codes():
    latents = torch.randn(4, 50, 6)
    quantizers = [LevelQuantizer(8, 3, 2) for _ in range(2)]
    for quantizer in quantizers:
        quantizer.initialise(latents, generator=torch.Generator().manual_seed(3))
    assert torch.equal(quantizers[0].codes, quantizers[1].codes)


def test_moving_average_codebooks_fit_in_its_place():
    quantizer = started(kind="ema").train()
    latents = torch.randn(2, 5, 6, requires_grad=True)
    output = quantizer(latents)
    assert isinstance(quantizer.layers[0], EMACodebook)
    assert output.negative_entropy == 0
    error = (latents - quantizer.embed(output.tokens)).square().sum()
    (0.25 * error).backward()
    wanted, latents.grad = latents.grad, None
    output.continuous.backward()
    assert latents.grad.shape == wanted.shape


def test_too_little_audio_is_refused():
    with pytest.raises(DataError, match="at least 64 finite points, found 20 points"):
        LevelQuantizer(64, 3).initialise(torch.randn(2, 10, 3))


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3)])
def test_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected tokens \(batch, frames, 2\)"):
        started().embed(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("token", [-1, 8])
def test_tokens_out_of_range_are_refused(token):
    with pytest.raises(ValueError, match="expected tokens below 8"):
        started().embed(torch.full((1, 1, 2), token))
