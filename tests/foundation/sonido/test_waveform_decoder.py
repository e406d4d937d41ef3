import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.sonido.config import WaveformDecoderConfig
from sonido_bench.foundation.sonido.waveform_decoder import WaveformDecoder

HOP, N_FFT = 64, 256


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return WaveformDecoder(WaveformDecoderConfig(width=16, depth=2, n_fft=N_FFT), channels=12, hop_length=HOP)


def centred_frames(audio):
    """Spectra of frames centred at (i + 0.5) hops, by a plain loop."""
    padded = torch.nn.functional.pad(audio, ((N_FFT - HOP) // 2,) * 2)
    window = torch.hann_window(N_FFT)
    frames = [padded[:, i * HOP : i * HOP + N_FFT] * window for i in range(audio.shape[1] // HOP)]
    return torch.fft.rfft(torch.stack(frames, dim=1))


def test_synthesis_inverts_the_transform_of_centred_frames(decoder):
    audio = torch.randn(2, 20 * HOP)
    found = decoder._synthesise(centred_frames(audio))
    assert found.shape == audio.shape
    assert torch.allclose(found, audio, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 17])
def test_audio_is_exactly_as_long_as_the_frames(decoder, frames):
    assert decoder(torch.randn(3, 12, frames)).shape == (3, frames * HOP)


def test_a_frame_reaches_no_farther_than_stated(decoder):
    frames = torch.randn(1, 12, 60)
    changed = frames.clone()
    changed[:, :, 30] += 1
    difference = (decoder(changed) - decoder(frames))[0].abs()
    touched = difference.nonzero().flatten()
    assert 30 * HOP - touched[0] <= decoder.reach
    assert touched[-1] - 31 * HOP <= decoder.reach


def test_learns_a_sine(decoder):
    audio = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(40 * HOP) / 8000)[None]
    spectrogram = torch.randn(1, 12, 40)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = decoder.loss(spectrogram, audio)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    power = torch.fft.rfft(decoder(spectrogram)[0]).abs()
    assert abs(power.argmax().item() * 8000 / (40 * HOP) - 440) < 8000 / N_FFT * 2


def test_silence_has_a_finite_loss_and_gradient(decoder):
    decoder.loss(torch.zeros(1, 12, 40), torch.zeros(1, 40 * HOP)).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in decoder.parameters())


@pytest.mark.parametrize("n_fft", [100, 257])
def test_frames_that_leave_gaps_or_lie_off_centre_are_refused(n_fft):
    with pytest.raises(ConfigError, match="at least two hops"):
        WaveformDecoder(WaveformDecoderConfig(16, 1, n_fft), channels=12, hop_length=64)
