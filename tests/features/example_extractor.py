"""The example of the README: an extractor of one's own."""

import torch
from torch import Tensor

from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec


class Bands(Extractor):
    card = ExtractorCard("bands", "Loudness of some frequency bands.", "MIT", "none", "Doe (2026), Bands.")

    def __init__(self, bands: int = 8) -> None:
        super().__init__()
        self.spec = FeatureSpec(sample_rate=16_000, streams={"bands": StreamSpec(dim=bands, hop_length=256)})
        self.project = torch.nn.Linear(513, bands)

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        window = torch.hann_window(1024, device=audio.device)
        spectrum = torch.stft(audio, 1024, 256, window=window, pad_mode="constant", return_complex=True)
        return {"bands": self.project(spectrum.abs().log1p().transpose(1, 2))}
