import pytest
import torch
from torch.nn import functional as F

from sonido_bench.foundation.codec.discriminator import (
    Judgement,
    MultiScaleSTFTDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)


def judgement(scores, features=()):
    return Judgement([torch.tensor(score) for score in scores], [[torch.tensor(f) for f in fs] for fs in features])


def test_each_resolution_keeps_its_frames_and_strides_over_its_bins():
    judged = MultiScaleSTFTDiscriminator((128, 64), filters=4)(torch.randn(2, 1000))
    for n_fft, score, features in zip((128, 64), judged.scores, judged.features, strict=True):
        frames, bins = 1 + 1000 // (n_fft // 4), [n_fft // 2 + 1]
        for _ in range(3):
            bins.append(-(-bins[-1] // 2))
        assert [tuple(f.shape) for f in features] == [(2, 4, frames, n) for n in [*bins, bins[-1]]]
        assert score.shape == (2, 1, frames, bins[-1])


def test_the_published_one_has_five_resolutions_and_its_layers_parameters():
    with torch.device("meta"):
        discriminator = MultiScaleSTFTDiscriminator()
    layers = [(2, 32, 27), *[(32, 32, 27)] * 3, (32, 32, 9), (32, 1, 9)]
    # weight, its norm per output channel, bias
    expected = 5 * sum(inputs * outputs * kernel + 2 * outputs for inputs, outputs, kernel in layers)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == expected


def test_hinge_losses_are_those_of_hand():
    real, fake = judgement([[2.0, 0.5], [-1.0]]), judgement([[-3.0, 0.0], [1.0]])
    # (0 + .5) / 2 + (0 + 1) / 2 = .75 and 2 + 2 = 4
    assert float(discriminator_loss(real, fake)) == pytest.approx((0.75 + 4) / 2)
    assert float(adversarial_loss(fake)) == pytest.approx(-(-1.5 + 1) / 2)


def test_the_feature_loss_is_the_mean_of_the_layers_and_pulls_at_the_fake_side_only():
    real = judgement([], [[[1.0, 2.0], [0.0]], [[5.0]]])
    fake = judgement([], [[[0.0, 4.0], [1.0]], [[5.0]]])
    real.features[0][0].requires_grad_()
    fake.features[0][0].requires_grad_()
    loss = feature_loss(real, fake)
    assert float(loss) == pytest.approx((1.5 + 1 + 0) / 3)
    loss.backward()
    assert real.features[0][0].grad is None
    assert fake.features[0][0].grad is not None


def test_it_learns_to_tell_noise_from_tones():
    torch.manual_seed(0)
    discriminator = MultiScaleSTFTDiscriminator((64,), filters=4)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    tone = torch.sin(torch.arange(800) * 0.3).expand(4, -1)
    losses = []
    for _ in range(40):
        loss = discriminator_loss(discriminator(tone), discriminator(torch.randn(4, 800)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_its_spectrogram_has_the_energy_of_the_signal():
    discriminator = MultiScaleSTFTDiscriminator((256,), filters=1)
    noise = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))
    spectrogram = discriminator.resolutions[0]._spectrogram(noise)
    assert float(spectrogram.square().sum(dim=1).mean()) == pytest.approx(1.0, abs=0.05)
    assert F.mse_loss(spectrogram[:, 0], spectrogram[:, 1]) > 0
