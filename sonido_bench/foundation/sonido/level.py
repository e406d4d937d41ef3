"""One level of the hierarchy: its convolutions in both directions, and its quantiser."""

import torch
from torch import Tensor, nn

from sonido_bench.foundation.sonido.blocks import Downsample, ResidualBlock, Upsample, conv
from sonido_bench.foundation.sonido.config import LevelConfig
from sonido_bench.foundation.sonido.quantizer import LevelQuantizer, Quantized, QuantizerKind

__all__ = ["Level"]

_STD_FLOOR = 1e-4


class Level(nn.Module):
    """One injected level (HQ-VAE section 3): a bottom-up activation, a top-down state, and codes that join them.

    Args:
        level: Its sizes.
        above: The next coarser level, or ``None`` for the coarsest.
        below: The next finer level, or ``None`` for the finest.
        bands: Parts of the channels that are not mixed in time.
        kind: Of the quantiser.

    Attributes:
        blocks_reach: Frames to either side of its own that a frame sees through the blocks of one direction.
        latent_reach: The same of what makes latents from state and activation.
    """

    def __init__(
        self, level: LevelConfig, above: LevelConfig | None, below: LevelConfig | None, bands: int, kind: QuantizerKind
    ) -> None:
        super().__init__()
        self.width, self.latent_dim = width, latent_dim = level.width, bands * level.code_dim
        ratio_below = level.stride // below.stride if below else level.stride
        self.down = Downsample(below.width if below else width, width, ratio_below, bands)
        blocks = [ResidualBlock(width, bands, index) for index in range(level.depth)]
        self.encoder = nn.Sequential(*blocks)
        self.blocks_reach = sum(block.reach for block in blocks)
        self.ratio_above = above.stride // level.stride if above else 1
        self.up = Upsample(above.width, width, self.ratio_above, bands) if above else None
        self.from_state = conv(width, width, 3, bands)
        self.from_activation = conv(width, width, 3, bands)
        self.mix = ResidualBlock(width, bands)
        self.latent_reach = 1 + self.mix.reach  # 1: the kernels of 3 before it
        self.to_latent = conv(width, latent_dim, 1, bands)
        self.quantizer = LevelQuantizer(level.codebook_size, level.code_dim, bands, level.layers, kind)
        self.from_code = conv(latent_dim, width, 1, bands)
        self.decoder = nn.Sequential(*(ResidualBlock(width, bands, index) for index in reversed(range(level.depth))))

    def forward(self, state: Tensor | None, activation: Tensor, temperature: float) -> tuple[Tensor, Quantized]:
        """Add what this level has to say to the state.

        Args:
            state: Of the level above, or ``None``.
            activation: ``(batch, width, frames)``.
            temperature: Of the Gumbel-softmax.

        Returns:
            The new state ``(batch, width, frames)``, and what the quantiser made of the latents.
        """
        state = self.start(state)
        quantized: Quantized = self.quantizer(self.latents(state, activation), temperature)
        return self.add(state, quantized.values), quantized

    def start(self, state: Tensor | None) -> Tensor:
        """Upsample the state of the level above; the coarsest starts from zeros, which broadcast."""
        if self.up is None or state is None:
            return self.from_state.weight.new_zeros(1, self.width, 1)
        upsampled: Tensor = self.up(state)
        return upsampled

    def latents(self, state: Tensor, activation: Tensor) -> Tensor:
        """Return what to add to the state in view of the activation: ``(batch, frames, bands * code_dim)``.

        The two are convolved apart and added, which is the convolution of the two side by side, within bands.
        """
        latents: Tensor = self.to_latent(self.mix(self.from_state(state) + self.from_activation(activation)))
        return latents.transpose(1, 2)

    @torch.no_grad()
    def standardise(self, latents: Tensor) -> Tensor:
        """Rescale the layer that makes latents, so that these have mean 0 and variance 1, and return them so.

        Args:
            latents: ``(batch, frames, bands * code_dim)``, as the layer makes them now.
        """
        flat = latents.flatten(0, 1)
        mean, std = flat.mean(dim=0), flat.std(dim=0, correction=0).clamp(min=_STD_FLOOR)
        self.to_latent.weight.div_(std.view(-1, 1, 1))
        if self.to_latent.bias is not None:
            self.to_latent.bias.sub_(mean).div_(std)
        return (latents - mean) / std

    def add(self, state: Tensor, values: Tensor) -> Tensor:
        """Add codes ``(batch, frames, bands * code_dim)`` to the state, and run this level's part of the decoder."""
        decoded: Tensor = self.decoder(state + self.from_code(values.transpose(1, 2)))
        return decoded
