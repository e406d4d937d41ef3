import math

import pytest
import torch

from sonido_bench.foundation.sonido.objective import (
    half_log_mse,
    log_spectral_distance,
    multi_resolution_stft_loss,
    si_snr,
)


def test_it_is_half_d_log_sse_per_dimension_but_for_a_constant():
    reference = torch.randn(3, 4, 10)
    estimates = [torch.randn(3, 4, 10, requires_grad=True) for _ in range(2)]
    dimensions = 40
    bounds = [dimensions / 2 * (reference - e).square().sum(dim=(1, 2)).mean().log() / dimensions for e in estimates]
    ours = [half_log_mse(reference, e) for e in estimates]
    torch.testing.assert_close(ours[0] - ours[1], bounds[0] - bounds[1])
    (wanted,) = torch.autograd.grad(bounds[0], estimates[0])
    (found,) = torch.autograd.grad(ours[0], estimates[0])
    torch.testing.assert_close(found, wanted)


def test_a_perfect_reconstruction_is_finite():
    reference = torch.randn(1, 1, 100)
    estimate = reference.clone().requires_grad_()
    loss = half_log_mse(reference, estimate) + multi_resolution_stft_loss(reference[0], estimate[0])
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(estimate.grad).all()


def test_stft_loss_is_zero_for_equal_signals_and_grows_with_the_error():
    reference = torch.randn(2, 2048)
    losses = [multi_resolution_stft_loss(reference, reference + e * torch.randn(2, 2048)) for e in (0.0, 0.1, 1.0)]
    assert losses[0] == 0
    assert losses[0] < losses[1] < losses[2]


def test_stft_loss_of_silence_against_the_same_spectrum_twice_as_loud():
    reference = torch.randn(1, 8192)
    # spectral convergence |2x - x| / |x| = 1, log difference ln 2
    assert float(multi_resolution_stft_loss(reference, 2 * reference)) == pytest.approx(1 + math.log(2), abs=1e-3)


@pytest.mark.parametrize("decibels", [0.0, 10.0, 30.0])
def test_si_snr_of_orthogonal_noise_is_its_level_and_gain_does_not_matter(decibels):
    time = torch.arange(1000) * 2 * torch.pi / 1000
    reference, noise = torch.sin(5 * time), torch.cos(7 * time) * 10 ** (-decibels / 20)
    assert float(si_snr(reference[None], 3.7 * (reference + noise)[None])) == pytest.approx(decibels, abs=0.01)


def test_log_spectral_distance_of_a_gain_is_that_gain():
    reference = torch.randn(2, 5, 7)
    louder = reference + math.log(10) * 0.6  # 6 dB
    assert float(log_spectral_distance(reference, louder)) == pytest.approx(6.0, abs=1e-4)
