import numpy as np
import pytest
import torch

from sonido_bench.errors import DataError
from sonido_bench.foundation.jukebox.loss import (
    STFT,
    largest_squares,
    magnitudes,
    measure_bandwidth,
    spectral_convergence,
    spectral_convergence_db,
    spectral_loss,
)

PUBLISHED = (STFT(2048, 240, 1200), STFT(1024, 120, 600), STFT(512, 50, 240))
SMALL = (STFT(128, 20, 100), STFT(64, 8, 64))


def noise(rows, samples, seed=0):
    return 0.3 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


def reference_magnitudes(audio, stft):
    """Frames cut and transformed by numpy, one item at a time."""
    n_fft, hop, length = stft
    window = np.zeros(n_fft)
    start = (n_fft - length) // 2
    window[start : start + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    items = []
    for item in audio.double().numpy():
        padded = np.pad(item, n_fft // 2, mode="reflect")
        frames = [padded[at : at + n_fft] * window for at in range(0, len(padded) - n_fft + 1, hop)]
        items.append(np.abs(np.fft.rfft(np.stack(frames), axis=1)).T)
    return np.stack(items)


@pytest.mark.parametrize("stft", [*PUBLISHED, *SMALL, STFT(2048, 256, 1536)])
def test_magnitudes_are_those_of_numpy(stft):
    audio = noise(2, 3000)
    expected = reference_magnitudes(audio, stft)
    np.testing.assert_allclose(magnitudes(audio, stft).numpy(), expected, atol=1e-4)


def test_the_spectral_loss_is_the_mean_frobenius_norm_of_the_difference():
    reference, estimate = noise(3, 2500), noise(3, 2500, seed=1)
    norms = [
        np.sqrt(np.square(reference_magnitudes(reference, stft) - reference_magnitudes(estimate, stft)).sum((1, 2)))
        for stft in PUBLISHED
    ]
    assert float(spectral_loss(reference, estimate, PUBLISHED)) == pytest.approx(np.mean(norms), rel=1e-5)


def test_spectral_convergence_is_relative_and_leaves_silent_items_out():
    stft, reference, estimate = SMALL[0], noise(3, 600), noise(3, 600, seed=1)
    reference[2] = 0
    wanted, found = reference_magnitudes(reference, stft), reference_magnitudes(estimate, stft)
    ratios = [np.linalg.norm(wanted[item] - found[item]) / np.linalg.norm(wanted[item]) for item in (0, 1)]
    ratio = float(spectral_convergence(reference, estimate, stft))
    assert ratio == pytest.approx(np.mean(ratios), rel=1e-5)
    decibels = float(spectral_convergence_db(reference, estimate, stft))
    assert decibels == pytest.approx(20 * np.log10(ratio), rel=1e-5)


def test_silence_has_a_convergence_of_0_db_and_a_perfect_copy_the_lowest():
    audio, stft = noise(2, 600), SMALL[0]
    assert float(spectral_convergence_db(audio, torch.zeros_like(audio), stft)) == pytest.approx(0, abs=1e-5)
    assert float(spectral_convergence_db(audio, 0.9 * audio, stft)) == pytest.approx(-20, abs=1e-3)
    assert float(spectral_convergence_db(audio, audio, stft)) == pytest.approx(-200)


def test_the_largest_squares_are_those_of_sorting():
    residual = noise(4, 300)
    squares = np.sort(np.square(residual.double().numpy()), axis=1)[:, -7:]
    assert float(largest_squares(residual, 7)) == pytest.approx(squares.mean(), rel=1e-6)
    everything = float(largest_squares(residual, 300))
    assert everything == pytest.approx(float(residual.square().mean()), rel=1e-6)


def test_bandwidths_are_variance_and_mean_norm_over_all_batches():
    batches = [noise(2, 600) + 0.5, noise(3, 600, seed=1)]
    everything, stft = torch.cat(batches), SMALL[0]
    found = measure_bandwidth(iter(batches), stft)
    assert float(found.l2) == pytest.approx(everything.double().numpy().var(), rel=1e-6)
    norms = np.sqrt(np.square(reference_magnitudes(everything, stft)).sum((1, 2)))
    assert float(found.spectral) == pytest.approx(norms.mean(), rel=1e-5)


def test_gradients_are_right_and_finite_where_nothing_differs():
    reference = noise(1, 80).double()
    estimate = noise(1, 80, seed=1).double().requires_grad_()
    loss = spectral_loss(reference, estimate, SMALL[1:]) + largest_squares(estimate - reference, 5)
    loss.backward()
    direction = noise(1, 80, seed=2).double()
    with torch.no_grad():
        above, below = (
            spectral_loss(reference, estimate + step, SMALL[1:]) + largest_squares(estimate + step - reference, 5)
            for step in (1e-3 * direction, -1e-3 * direction)
        )
    assert float((above - below) / 2e-3) == pytest.approx(float((estimate.grad * direction).sum()), rel=1e-2)
    for start in (reference, torch.zeros_like(reference)):
        same = start.clone().requires_grad_()
        spectral_loss(start, same, SMALL[1:]).backward()
        assert torch.isfinite(same.grad).all()


def test_spectra_are_in_full_precision_under_autocast():
    audio = noise(2, 600)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(magnitudes(audio, SMALL[0]), magnitudes(audio.float(), SMALL[0]))
        assert spectral_loss(audio, audio.bfloat16(), SMALL).dtype == torch.float32


def test_wrong_input():
    with pytest.raises(ValueError, match="more than 64 samples for an STFT of 128 points"):
        magnitudes(noise(2, 64), SMALL[0])
    with pytest.raises(ValueError, match=r"\(batch, samples\)"):
        magnitudes(noise(2, 600).unsqueeze(1), SMALL[0])
    with pytest.raises(ValueError, match="at least linf_k = 100 samples"):
        largest_squares(noise(2, 99), 100)
    for batches in ([], [torch.zeros(2, 600)]):
        with pytest.raises(DataError, match="audio that sounds"):
            measure_bandwidth(batches, SMALL[0])
