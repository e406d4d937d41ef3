"""Log-mel spectrogram: the tasks' own front end, and the control that a foundation model has to beat."""

import torch
from torch import Tensor

from sonido_bench.audio import log_mel, mel_filterbank, power_spectrum
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec

__all__ = ["LogMel"]


class LogMel(Extractor):
    """Log-mel frames, or statistics over blocks of them.

    Values lie in about [-1, 1.1]: -1 is silence (-80 dB), 1 a full-scale sine. With ``pool`` above 1 a frame is the
    mean, standard deviation and maximum over a block of ``pool`` log-mel frames, in this order.

    Args:
        sample_rate: In Hz.
        n_fft: Length of the Hann window and the Fourier transform.
        hop_length: Samples between log-mel frames.
        num_mels: Bands.
        f_min: Lowest frequency in Hz.
        f_max: Highest frequency in Hz; ``None``: half the sample rate.
        pool: Log-mel frames per block.

    Raises:
        ConfigError: If the bands do not fit the spectrum.
    """

    window: Tensor
    filterbank: Tensor
    card = ExtractorCard(
        name="logmel",
        description="Log-mel spectrogram, no learning.",
        code_licence="Apache-2.0",
        weights_licence="none",
        citation="Slaney (1998), Auditory Toolbox, Technical Report 1998-010 (mel scale).",
    )

    def __init__(
        self,
        sample_rate: int = 22050,
        n_fft: int = 2048,
        hop_length: int = 512,
        num_mels: int = 128,
        f_min: float = 27.5,
        f_max: float | None = None,
        pool: int = 1,
    ) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.pool = pool
        dim = num_mels if pool == 1 else 3 * num_mels
        centre = (pool - 1) / 2 * hop_length / sample_rate
        self.spec = FeatureSpec(sample_rate, {"logmel": StreamSpec(dim, hop_length * pool, centre)})
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        filterbank = mel_filterbank(sample_rate, n_fft, num_mels, f_min, f_max)
        self.register_buffer("filterbank", filterbank, persistent=False)

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Return the stream ``logmel`` of ``(batch, samples)``; samples are whole blocks."""
        power = power_spectrum(audio, self.window, self.hop_length)
        frames = log_mel(power, self.filterbank)
        if self.pool > 1:
            frames = frames[:, :-1]  # the centred transform gives one too many
            blocks = frames.reshape(len(frames), -1, self.pool, frames.shape[2])
            frames = torch.cat([blocks.mean(2), blocks.std(2, correction=0), blocks.amax(2)], dim=-1)
        return {"logmel": frames}
