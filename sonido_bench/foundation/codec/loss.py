"""How far a reconstruction is from the audio: mel spectra at several time scales."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.audio import mel_filterbank, power_spectrum
from sonido_bench.errors import ConfigError

__all__ = ["MultiScaleMelLoss"]

_FLOOR = 1e-5  # of the mel power before the logarithm


class MultiScaleMelLoss(nn.Module):
    """Mean absolute difference of mel power plus mean squared difference of its decadic logarithm.

    As in audiocraft's ``specloss.py``, by default with the settings of MusicGen's tokenizer: windows of 64 to 1,024
    samples that overlap by three quarters, power divided by the window's energy, and the mean over scales and over the
    two terms.

    A short window has fewer frequencies than 64 bands would need, and a band without one is the same for all audio and
    waters the mean down. So each scale has the largest number of bands, up to ``num_mels``, of which none is empty.

    Args:
        sample_rate: In Hz.
        num_mels: Bands of a scale, at most.
        f_min: Lowest edge in Hz.
        windows: In samples, from the shortest on.

    Attributes:
        bands: Of each scale, in the windows' order.
    """

    def __init__(
        self,
        sample_rate: int,
        num_mels: int = 64,
        f_min: float = 64.0,
        windows: tuple[int, ...] = (64, 128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        self.windows = windows
        self.bands: list[int] = []
        for n_fft in windows:
            filters = _filters(sample_rate, n_fft, num_mels, f_min)
            self.bands.append(filters.shape[1])
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"filters_{n_fft}", filters, persistent=False)

    def mels(self, audio: Tensor) -> list[Tensor]:
        """Return the mel power of each scale.

        Args:
            audio: ``(batch, samples)``.

        Returns:
            ``(batch, 1 + samples // hop, bands)`` float32 each, whatever autocast says.
        """
        with torch.autocast(audio.device.type, enabled=False):
            return [self._mel(audio.float(), n_fft) for n_fft in self.windows]

    def forward(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            reference: ``(batch, samples)``.
            estimate: The same shape.

        Raises:
            ValueError: If the shapes differ.
        """
        if reference.shape != estimate.shape or reference.ndim != 2:
            raise ValueError(
                f"expected two signals (batch, samples) of one shape, got {tuple(reference.shape)} and "
                f"{tuple(estimate.shape)}"
            )
        losses = []
        for wanted, found in zip(self.mels(reference), self.mels(estimate), strict=True):
            logarithmic = F.mse_loss((found + _FLOOR).log10(), (wanted + _FLOOR).log10())
            losses.append((F.l1_loss(found, wanted) + logarithmic) / 2)
        return torch.stack(losses).mean()

    def _mel(self, audio: Tensor, n_fft: int) -> Tensor:
        window, filters = self.get_buffer(f"window_{n_fft}"), self.get_buffer(f"filters_{n_fft}")
        power = power_spectrum(audio, window, n_fft // 4)
        # from that function's scale, by the window's sum, to that of its energy
        return power @ filters * (window.sum().square() / (4 * window.square().sum()))


def _filters(sample_rate: int, n_fft: int, num_mels: int, f_min: float) -> Tensor:
    """Return the most filters of which none is empty."""
    for count in range(min(num_mels, n_fft // 2), 1, -1):
        try:
            return mel_filterbank(sample_rate, n_fft, count, f_min)
        except ConfigError:
            continue
    return mel_filterbank(sample_rate, n_fft, 1, f_min)
