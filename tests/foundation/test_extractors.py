import math

import numpy as np
import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.features.check import check_extractor
from sonido_bench.foundation.catalogue import built_in_names, load_extractor
from sonido_bench.foundation.chroma import Chroma
from sonido_bench.foundation.convnet import ConvNet
from sonido_bench.foundation.logmel import LogMel


def sine(frequency, seconds=1.0, rate=22050):
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * rate)) / rate)[None]


@pytest.mark.parametrize("name", [*built_in_names(), "convnet@random"])
def test_built_in_extractors_keep_the_contract(name):
    extractor = load_extractor(name)
    assert extractor.card.name == name
    assert [finding for finding in check_extractor(extractor) if not finding.passed] == []


@pytest.mark.parametrize("extractor", [LogMel(pool=16), LogMel(16000, 512, 160, 40, 0.0, 7600.0)])
def test_other_configurations_keep_the_contract(extractor):
    assert [finding for finding in check_extractor(extractor) if not finding.passed] == []


def test_log_mel_peaks_in_the_band_of_a_sine():
    extractor = LogMel(num_mels=64)
    centres = extractor.filterbank.argmax(dim=0) * 22050 / 2048
    for frequency in (220.0, 1000.0, 5000.0):
        band = extractor.extract(sine(frequency))["logmel"][0, 20].argmax()
        assert abs(centres[band] - frequency) / frequency < 0.15


def test_log_mel_range():
    extractor = LogMel()
    assert torch.equal(extractor.extract(torch.zeros(1, 22050))["logmel"], torch.full((1, 44, 128), -1.0))
    assert extractor.extract(2 * sine(440))["logmel"].max() == pytest.approx(1.0, abs=0.06)


def test_pooled_log_mel_is_statistics_of_the_frames():
    audio = torch.rand(2, 512 * 40, generator=torch.Generator().manual_seed(0)) - 0.5
    frames = LogMel().extract(audio)["logmel"]
    pooled = LogMel(pool=16).extract(audio)["logmel"]
    assert pooled.shape == (2, 3, 384)
    block = frames[:, 16:32]
    expected = torch.cat([block.mean(1), block.std(1, correction=0), block.amax(1)], dim=1)
    assert torch.allclose(pooled[:, 1], expected, atol=1e-5)
    assert LogMel(pool=16).spec.grid("logmel").first_centre == pytest.approx(7.5 * 512 / 22050)


@pytest.mark.parametrize("pitch", range(40, 97))
def test_chroma_of_a_sine_is_its_pitch_class(pitch):
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    chroma = Chroma().extract(sine(frequency, 0.8))["chroma"][0, 4]
    assert chroma.argmax().item() == pitch % 12


def test_chroma_agrees_with_a_plain_loop():
    rate, n_fft, hop = 22050, 8192, 2048
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, rate).astype(np.float32)
    found = Chroma().extract(torch.from_numpy(audio)[None])["chroma"][0]
    padded = np.pad(audio.astype(np.float64), n_fft // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    for index in (0, 3, 7):
        magnitude = np.abs(np.fft.rfft(padded[index * hop : index * hop + n_fft] * window)) * 2 / window.sum()
        expected = np.zeros(12)
        for k in range(1, n_fft // 2 + 1):
            pitch = 69 + 12 * np.log2(k * rate / n_fft / 440)
            for pitch_class in range(12):
                distance = min(abs((pitch - pitch_class) % 12), 12 - abs((pitch - pitch_class) % 12))
                emphasis = np.exp(-0.5 * ((pitch - 69) / 12 / 1.5) ** 2)
                expected[pitch_class] += magnitude[k] * np.exp(-0.5 * (distance / 0.35) ** 2) * emphasis
        expected = np.log1p(100 * expected)
        assert np.allclose(found[index], expected / np.linalg.norm(expected), atol=1e-4)


def test_chroma_of_silence_is_zero_and_of_sound_has_norm_one():
    assert torch.equal(Chroma().extract(torch.zeros(1, 22050))["chroma"], torch.zeros(1, 11, 12))
    assert torch.allclose(Chroma().extract(sine(440))["chroma"].norm(dim=-1), torch.ones(1, 11), atol=1e-4)


def test_chroma_follows_the_tuning():
    sharp = Chroma(tuning=440 * 2 ** (1 / 12))
    assert sharp.extract(sine(440))["chroma"][0, 5].argmax() == 8


def test_conv_net_is_drawn_from_its_seed():
    assert ConvNet().fingerprint() == ConvNet(0).fingerprint() != ConvNet(1).fingerprint()
    assert ConvNet().spec.frame_rate("conv") == pytest.approx(5.38, abs=0.01)
    assert sum(parameter.numel() for parameter in ConvNet().parameters()) == 60_576


def test_conv_net_hears_differences():
    extractor = ConvNet()
    low, high = (extractor.extract(sine(frequency))["conv"][0, 3] for frequency in (220.0, 880.0))
    assert torch.nn.functional.cosine_similarity(low, high, dim=0) < 0.99


def test_bands_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="too many"):
        LogMel(n_fft=256)
