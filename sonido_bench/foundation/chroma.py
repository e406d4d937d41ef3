"""Chroma: how strongly each of the twelve pitch classes sounds."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.audio import power_spectrum
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec

__all__ = ["Chroma", "pitch_class_weights"]

_SPREAD = 0.35  # semitones: standard deviation of a pitch class
_OCTAVES = 1.5  # standard deviation of the emphasis around the tuning tone
_QUIET = 0.01  # frames of a smaller norm are not scaled up to 1


class Chroma(Extractor):
    """Twelve pitch classes, C first, each frame of Euclidean norm 1; silence gives zeros.

    The magnitude spectrum is summed into pitch classes by Gaussian weights, compressed to ``log(1 + compression * x)``
    and normalised; frames quieter than about -100 dB fade to zero instead of showing their noise.

    Args:
        sample_rate: In Hz.
        n_fft: Length of the Hann window and the Fourier transform; long, to tell low semitones apart.
        hop_length: Samples between frames.
        tuning: Frequency of A4 in Hz.
        compression: Strength of the logarithm.
    """

    window: Tensor
    weights: Tensor
    card = ExtractorCard(
        name="chroma",
        description="Pitch-class profile, no learning.",
        code_licence="Apache-2.0",
        weights_licence="none",
        citation="Müller (2015), Fundamentals of Music Processing, section 3.1 (log-compressed chroma).",
    )

    def __init__(
        self,
        sample_rate: int = 22050,
        n_fft: int = 8192,
        hop_length: int = 2048,
        tuning: float = 440.0,
        compression: float = 100.0,
    ) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.compression = compression
        self.spec = FeatureSpec(sample_rate, {"chroma": StreamSpec(12, hop_length)})
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("weights", pitch_class_weights(sample_rate, n_fft, tuning), persistent=False)

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Return the stream ``chroma`` of ``(batch, samples)``."""
        magnitude = power_spectrum(audio, self.window, self.hop_length).sqrt()
        chroma = torch.log1p(self.compression * (magnitude @ self.weights))
        return {"chroma": F.normalize(chroma, dim=-1, eps=_QUIET)}


def pitch_class_weights(sample_rate: int, n_fft: int, tuning: float) -> Tensor:
    """How much each frequency bin counts towards each pitch class.

    Gaussian in the distance to the nearest pitch of the class, times a Gaussian in octaves around A4, where pitches
    are apart from their neighbours and from the noise.

    Returns:
        ``(n_fft // 2 + 1, 12)`` float32, C first; zero for the constant bin.
    """
    frequencies = torch.arange(1, n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
    octaves = torch.log2(frequencies / tuning)
    pitches = 12 * octaves[:, None] + 9 - torch.arange(12)  # semitones above each class; A is the ninth above C
    distance = (pitches + 6) % 12 - 6
    weights = torch.exp(-0.5 * (distance / _SPREAD) ** 2 - 0.5 * (octaves[:, None] / _OCTAVES) ** 2)
    return F.pad(weights, (0, 0, 1, 0)).float()
