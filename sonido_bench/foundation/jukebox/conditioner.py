"""What is known before the codes: labels and time, and the codes of the level above."""

import torch
from torch import Tensor, nn

from sonido_bench.foundation.jukebox.prior_config import LabelConfig, PriorConfig, UpsamplerConfig
from sonido_bench.foundation.transformer.conditioner import ResidualConv

__all__ = ["LabelConditioner", "UpsamplerConditioner"]


class LabelConditioner(nn.Module):
    """Embeds artist and genres as a start token, and the time of every code as a bias.

    Time is told three times, in bins of equal width: the song's length, the code's position in seconds, and its
    position relative to the song's length. Dhariwal et al. (2020), section 4.1; jukebox/prior/conditioners.py.

    Args:
        config: Of the prior.
        labels: Its labels.
    """

    def __init__(self, config: PriorConfig, labels: LabelConfig) -> None:
        super().__init__()
        self.context = config.context
        self.total_range = (labels.min_seconds * config.sample_rate, labels.max_seconds * config.sample_rate)
        self.bins = labels.timing_bins
        self.artist = _embedding(labels.artists, config.width, 0.01 * config.init_scale)
        self.genre = _embedding(labels.genres, config.width, 0.01 * config.init_scale)
        if self.bins:
            self.total_length = _embedding(self.bins, config.width, 0.01 * config.init_scale)
            self.absolute_position = _embedding(self.bins, config.width, 0.01 * config.init_scale)
            self.relative_position = _embedding(self.bins, config.width, 0.01 * config.init_scale)

    def forward(self, artist: Tensor, genres: Tensor) -> Tensor:
        """Return start tokens.

        Args:
            artist: int64 ``(batch,)``.
            genres: int64 ``(batch, slots)``; -1 is an empty slot.

        Returns:
            ``(batch, 1, width)``, the sum of all.
        """
        words = self.genre(genres.clamp(min=0)) * (genres >= 0).unsqueeze(2)
        start: Tensor = self.artist(artist).unsqueeze(1) + words.sum(dim=1, keepdim=True)
        return start

    def timing(self, times: Tensor, codes: int) -> Tensor:
        """Return what the time says at the first codes of a window.

        Args:
            times: int64 ``(batch, 3)``: length of the song, offset and length of the window, in samples.
            codes: How many, at most ``context``.

        Returns:
            ``(batch, codes, width)``.
        """
        # In single precision as in the original, which decides the bin of times on an edge.
        total, start = times[:, 0:1].float(), times[:, 1:2].float()
        end = (times[:, 1:2] + times[:, 2:3]).float()
        low, high = self.total_range
        fraction = torch.arange(codes, dtype=torch.float32, device=times.device) / self.context
        absolute = (start + (end - start) * fraction) / high
        first, last = start / total, (end / total).clamp(0.0, 1.0)
        relative = first + (last - first) * fraction
        told: Tensor = (
            self.total_length(self._bin((total - low) / (high - low)))
            + self.absolute_position(self._bin(absolute))
            + self.relative_position(self._bin(relative))
        )
        return told

    def _bin(self, share: Tensor) -> Tensor:
        return (self.bins * share).floor().long().clamp(0, self.bins - 1)


class UpsamplerConditioner(nn.Module):
    """Embeds the codes of the level above, looks at their surroundings, and gives them this level's rate.

    Dhariwal et al. (2020), section 4.2; jukebox/prior/conditioners.py.

    Args:
        config: Of its convolutions.
        width: Of embeddings and output.
        codebook_size: Codes of the level above.
        init_scale: Of the embeddings.
    """

    def __init__(self, config: UpsamplerConfig, width: int, codebook_size: int, init_scale: float) -> None:
        super().__init__()
        self.ratio = 2**config.doublings
        self.embedding = _embedding(codebook_size, width, 0.02 * init_scale)
        self.conv_in = nn.Conv1d(width, config.width, kernel_size=3, padding=1)
        outputs = [config.width] * (config.doublings - 1) + [width]
        self.stages = nn.Sequential(*(_Doubling(config, output) for output in outputs))
        self.norm = nn.LayerNorm(width)

    def forward(self, above: Tensor) -> Tensor:
        """Return ``(batch, codes * ratio, width)`` from the codes above, int64 ``(batch, codes)``."""
        embedded = self.embedding(above).to(self.conv_in.weight.dtype)  # the convolutions may be in lower precision
        hidden = self.stages(self.conv_in(embedded.transpose(1, 2)))
        normalised: Tensor = self.norm(hidden.transpose(1, 2).to(self.norm.weight.dtype))
        return normalised


class _Doubling(nn.Module):
    """Residual dilated convolutions, and a transposed one that doubles the rate."""

    def __init__(self, config: UpsamplerConfig, output: int) -> None:
        super().__init__()
        cycle = config.dilation_cycle or config.depth
        dilations = [config.dilation_growth ** (index % cycle) for index in range(config.depth)]
        scale = config.depth**-0.5 if config.scale_residuals else 1.0
        self.blocks = nn.Sequential(*(ResidualConv(config.width, dilation, scale) for dilation in dilations))
        self.upsample = nn.ConvTranspose1d(config.width, output, kernel_size=4, stride=2, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``(batch, output, 2 * frames)`` from ``(batch, width, frames)``."""
        doubled: Tensor = self.upsample(self.blocks(hidden))
        return doubled


def _embedding(rows: int, width: int, std: float) -> nn.Embedding:
    embedding = nn.Embedding(rows, width)
    nn.init.normal_(embedding.weight, std=std)
    return embedding
