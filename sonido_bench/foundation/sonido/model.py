"""The whole of SoniDo: autoencoder, one transformer per level, and a way back to audio."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.features.windows import Window, split
from sonido_bench.foundation.sonido.config import LevelName, PriorConfig, SonidoConfig, StageOneConfig
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.sonido.prior import Prior
from sonido_bench.foundation.sonido.waveform_decoder import WaveformDecoder

__all__ = ["Sonido", "build_prior"]

_WINDOW_SECONDS = 12.0  # of the convolutions; longer ones gain no speed


class Sonido(nn.Module):
    """Audio to tokens to transformers, and tokens back to audio.

    Liao et al. (2024), section 3: a stage-1 autoencoder of several granularities, and a stage-2 transformer for each
    of them. What they do not publish is chosen in ``config``.

    Audio and tokens may have any length: the convolutions run in windows that overlap by more than they reach, which
    gives what they would give run over the whole, in memory that does not grow.

    Args:
        config: Sizes of all parts.

    Attributes:
        config: As given.
        stage_one: The autoencoder.
        priors: Level to its transformer, coarse to fine.
        waveform_decoder: From the spectrogram to audio; ``None`` where the autoencoder writes the waveform itself.
    """

    def __init__(self, config: SonidoConfig) -> None:
        super().__init__()
        self.config = config
        self.stage_one = HQVAE(config.stage_one)
        self.priors = nn.ModuleDict({prior.level: build_prior(prior, config.stage_one) for prior in config.priors})
        front_end, decoder = config.stage_one.front_end, config.waveform_decoder
        self.waveform_decoder = (
            WaveformDecoder(decoder, self.stage_one.front_end.channels, front_end.hop_length) if decoder else None
        )

    @property
    def sample_rate(self) -> int:
        """Of the audio that it reads and writes, in Hz."""
        return self.config.stage_one.sample_rate

    def prior(self, level: str) -> Prior:
        """Return the transformer of a level."""
        return cast(Prior, self.priors[level])

    def encode(self, audio: Tensor, down_to: str | None = None) -> dict[LevelName, Tensor]:
        """Return the tokens of audio.

        Args:
            audio: Mono, ``(batch, samples)`` float32 in [-1, 1]; padded with zeros at its end to whole frames.
            down_to: The finest level wanted; ``None``: all.

        Returns:
            Level to int64 ``(batch, frames, codebooks)``, coarse to fine.
        """
        return self._by_level(audio, lambda part: self.stage_one.encode(part, down_to))

    def latents(self, audio: Tensor, down_to: str | None = None) -> dict[LevelName, Tensor]:
        """Return what the codebooks are asked to code; arguments as for ``encode``.

        Returns:
            Level to float32 ``(batch, frames, code_dim)``.
        """
        return self._by_level(audio, lambda part: self.stage_one.latents(part, down_to))

    @torch.no_grad()
    def decode(self, tokens: Mapping[LevelName, Tensor]) -> Tensor:
        """Return the audio of tokens.

        Args:
            tokens: Of the coarsest level, of the coarsest two, or of all, int64 ``(batch, frames, codebooks)``.

        Returns:
            Mono, ``(batch, samples)`` float32: as many samples as the frames are long.

        Raises:
            ValueError: If a coarser level is missing, or the frames of two levels do not match.
        """
        hops = {level: self.stage_one.hop(level) for level in tokens}
        parts = []
        for window in self._windows(max(level.shape[1] * hops[name] for name, level in tokens.items())):
            part = {
                name: level[:, window.start // hops[name] : window.end // hops[name]] for name, level in tokens.items()
            }
            parts.append(self._decode_window(part)[:, window.kept_frames(1)])
        return torch.cat(parts, dim=1)

    def _decode_window(self, tokens: Mapping[LevelName, Tensor]) -> Tensor:
        reconstruction = self.stage_one.decode(tokens)
        if self.waveform_decoder is None:
            return reconstruction[:, 0]
        audio: Tensor = self.waveform_decoder(reconstruction)
        return audio

    @torch.no_grad()
    def _by_level(
        self, audio: Tensor, analyse: Callable[[Tensor], Mapping[LevelName, Tensor]]
    ) -> dict[LevelName, Tensor]:
        """Run an analysis in windows and stitch what it gives for each level."""
        padded = F.pad(audio, (0, -audio.shape[1] % self.stage_one.common_hop))
        parts: dict[LevelName, list[Tensor]] = {}
        for window in self._windows(padded.shape[1]):
            for level, frames in analyse(padded[:, window.start : window.end]).items():
                parts.setdefault(level, []).append(frames[:, window.kept_frames(self.stage_one.hop(level))])
        return {level: torch.cat(frames, dim=1) for level, frames in parts.items()}

    def _windows(self, samples: int) -> list[Window]:
        """Windows whose kept parts see all that the convolutions of either direction reach."""
        hop = self.stage_one.common_hop
        reach = max(self.stage_one.receptive_field.values())
        if self.waveform_decoder is not None:
            reach = max(reach, self.waveform_decoder.reach)
        overlap = 2 * (reach // hop + 2)  # common hops; two for what the cut and the rounding take
        window = max(round(_WINDOW_SECONDS * self.sample_rate / hop), 4 * overlap)
        return split(samples, window * hop, overlap * hop, hop)


def build_prior(config: PriorConfig, stage_one: StageOneConfig) -> Prior:
    """Build the transformer of a level over the tokens that an autoencoder gives.

    Args:
        config: Of the transformer.
        stage_one: Of the autoencoder: how many codebooks of what size there are, and how much finer the level is than
            the one above.
    """
    level = stage_one.level(config.level)
    above = None
    if config.above is not None:
        coarser = stage_one.level(config.above)
        above = (stage_one.bands * coarser.layers, coarser.codebook_size, coarser.stride // level.stride)
    return Prior(config, stage_one.bands * level.layers, level.codebook_size, above)
