import numpy as np
import pytest
import torch

from sonido_bench.foundation.codec.loss import MultiScaleMelLoss


def slaney_hz(mel):
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def slaney_mel(hertz):
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1e-9) / 1000) / np.log(6.4))


def triangles(rate, n_fft, bands, f_min):
    """Filters of height 1, from the definition of the scale."""
    edges = slaney_hz(np.linspace(slaney_mel(np.array(f_min)), slaney_mel(np.array(rate / 2)), bands + 2))
    bins = np.arange(n_fft // 2 + 1)[:, None] * rate / n_fft
    rising, falling = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling))


def mel_power(audio, rate, n_fft, bands, f_min):
    hop, window = n_fft // 4, 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(audio, (n_fft // 2, n_fft // 2))
    frames = np.stack([padded[start : start + n_fft] for start in range(0, len(audio) + 1, hop)])
    power = np.abs(np.fft.rfft(frames * window)) ** 2 / (window**2).sum()
    return power @ triangles(rate, n_fft, bands, f_min)


@pytest.mark.parametrize("windows", [(64, 128, 256, 512, 1024), (256, 2048)])
def test_the_loss_is_that_of_numpy(windows):
    rate, generator = 16_000, np.random.default_rng(0)
    reference, estimate = generator.normal(size=(2, 3000)) * 0.3
    loss = MultiScaleMelLoss(rate, windows=windows)
    scales = []
    for n_fft, bands in zip(windows, loss.bands, strict=True):
        wanted, found = (mel_power(signal, rate, n_fft, bands, 64.0) for signal in (reference, estimate))
        logarithmic = np.mean((np.log10(wanted + 1e-5) - np.log10(found + 1e-5)) ** 2)
        scales.append((np.abs(wanted - found).mean() + logarithmic) / 2)
    pair = [torch.from_numpy(signal).float().unsqueeze(0) for signal in (reference, estimate)]
    assert float(loss(*pair)) == pytest.approx(np.mean(scales), rel=1e-4)


@pytest.mark.parametrize("rate", [4000, 16_000, 32_000, 44_100])
def test_no_band_is_empty_at_any_scale(rate):
    loss = MultiScaleMelLoss(rate)
    assert loss.bands[-1] <= 64
    mels = loss.mels(torch.randn(1, rate))
    assert [mel.shape[2] for mel in mels] == loss.bands
    assert all((mel.mean(dim=1) > 0).all() for mel in mels)


def test_it_is_zero_for_equal_signals_only_and_grows_with_the_difference():
    loss, audio, noise = MultiScaleMelLoss(16_000), torch.randn(1, 2000), torch.randn(1, 2000)
    assert loss(audio, audio) == 0
    near, far = loss(audio, audio + 0.1 * noise), loss(audio, audio + noise)
    assert 0 < near < far


def test_silence_has_a_finite_gradient_and_audio_may_be_shorter_than_a_window():
    estimate = torch.zeros(1, 100, requires_grad=True)
    MultiScaleMelLoss(16_000)(torch.zeros(1, 100), estimate).backward()
    assert torch.isfinite(estimate.grad).all()


def test_it_is_computed_in_float32_under_autocast():
    loss, audio, estimate = MultiScaleMelLoss(16_000), torch.randn(1, 2000), torch.randn(1, 2000)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(audio, estimate)
    assert torch.equal(inside, loss(audio, estimate))


def test_signals_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match="of one shape"):
        MultiScaleMelLoss(16_000)(torch.zeros(1, 10), torch.zeros(1, 11))
