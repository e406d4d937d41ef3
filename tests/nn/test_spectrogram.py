import pytest
import torch

from sonido_bench.features.alignment import align
from sonido_bench.features.spec import FrameGrid
from sonido_bench.nn.spectrogram import STFT


def stft(centred):
    return STFT(64, 16, 8000, centred)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("samples", [64, 79, 80, 1000])
def test_agrees_with_a_transform_written_out(samples, centred):
    audio = torch.randn(samples, dtype=torch.float64)
    padded = torch.cat([audio[1:33].flip(0), audio, audio[-33:-1].flip(0)]) if centred else audio
    window = torch.sin(torch.pi * torch.arange(64, dtype=torch.float64) / 64) ** 2
    expected = torch.fft.rfft(padded.unfold(0, 64, 16) * window).T
    assert torch.allclose(stft(centred)(audio), expected)
    assert stft(centred).frames(samples) == expected.shape[1]


@pytest.mark.parametrize("centred", [False, True])
def test_the_grid_gives_the_centres(centred):
    """An impulse at a frame's centre has magnitude 1, the window's peak, there and less elsewhere."""
    transform = stft(centred)
    position = transform.grid.centres(6)[5].item() * 8000
    assert position == pytest.approx(16 * 5 + (0 if centred else 32))
    audio = torch.zeros(2, 1, 400)
    audio[..., round(position)] = 1
    spectrum = transform(audio)
    assert spectrum.shape == (2, 1, transform.bins, transform.frames(400))
    peaks = spectrum.abs().amax(dim=2)[0, 0]
    assert peaks.argmax() == 5
    assert peaks[5] == pytest.approx(1, abs=1e-5)


def test_features_of_both_grids_differ_by_half_a_window():
    stream = torch.linspace(0, 1, 200)[None, :, None]
    within, centred = (align(stream, FrameGrid(1000.0, 0.0), stft(each).grid, 5) for each in (False, True))
    assert torch.allclose(within[:, :3], centred[:, 2:], atol=1e-6)


def test_the_centred_transform_can_be_undone_and_the_other_not():
    transform = stft(centred=True)
    audio = torch.randn(2, 3, 1001)
    assert torch.allclose(transform.inverse(transform(audio), 1001), audio, atol=1e-5)
    assert torch.equal(transform(audio[0, 0]), transform(audio)[0, 0])
    with pytest.raises(ValueError, match="centred=True"):
        stft(centred=False).inverse(transform(audio), 1001)
    with pytest.raises(ValueError, match="at least 33 samples, got 32"):
        transform(audio[..., :32])
