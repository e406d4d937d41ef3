"""The codec: audio to codes and back."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import DataError
from sonido_bench.foundation.codec.config import CodecConfig
from sonido_bench.foundation.codec.quantizer import Quantized, ResidualQuantizer
from sonido_bench.foundation.codec.seanet import Decoder, Encoder

__all__ = ["Codec", "CodecOutput"]


class CodecOutput(NamedTuple):
    """What a training step needs.

    Attributes:
        audio: ``(batch, samples)``: the reconstruction, as long as what was given.
        latents: ``(batch, dim, frames)``: what the encoder made.
        quantized: The codes, the commitment of each codebook, and the codebooks' streams.
    """

    audio: Tensor
    latents: Tensor
    quantized: Quantized


class Codec(nn.Module):
    """SEANet encoder, residual vector quantisation, SEANet decoder (EnCodec: Défossez et al. 2022).

    Mono, not causal, and not normalised: the codes hold the loudness. Audio of any length is padded with zeros at its
    end to whole frames; frame ``i`` stands for the samples from ``i * hop_length`` on.

    Args:
        config: Its sizes.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.seanet)
        self.quantizer = ResidualQuantizer(config.quantizer, config.seanet.dimension)
        self.decoder = Decoder(config.seanet)

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.config.frame_rate

    @property
    def codebooks(self) -> int:
        """Codes of a frame."""
        return self.quantizer.codebooks

    @property
    def codebook_size(self) -> int:
        """Values that a code can have."""
        return self.quantizer.codebook_size

    def initialise(self, audio: Tensor) -> None:
        """Start the codes by k-means on the latents of audio; the first training step does so by itself.

        Args:
            audio: ``(batch, samples)``.
        """
        with torch.no_grad():
            self.quantizer.initialise(self.latents(audio))

    def latents(self, audio: Tensor) -> Tensor:
        """Return what is quantised.

        Args:
            audio: ``(batch, samples)`` at ``sample_rate``, in [-1, 1], of any length but 0.

        Returns:
            ``(batch, dim, frames)`` with ``ceil(samples / hop_length)`` frames.

        Raises:
            ValueError: If the audio has another shape, or is empty.
            DataError: If it holds NaN or infinity.
        """
        if audio.ndim != 2 or not audio.numel():
            raise ValueError(f"expected audio (batch, samples), not empty, got {tuple(audio.shape)}")
        if not torch.isfinite(audio).all():
            raise DataError("codec: expected finite samples, found NaN or infinity: mend or leave out the recording")
        latents: Tensor = self.encoder(F.pad(audio, (0, -audio.shape[1] % self.hop_length)))
        return latents

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """Return the codes of audio, and learn nothing, whatever mode the module is in.

        Args:
            audio: As for ``latents``, which says what is refused.

        Returns:
            ``(batch, frames, codebooks)`` int64, the coarsest codebook first.
        """
        return self.quantizer.quantize(self.latents(audio)).codes

    def embed(self, codes: Tensor) -> Tensor:
        """Look codes up, side by side: ``(batch, frames, codebooks)`` to ``(batch, frames, codebooks * dim)``.

        Raises:
            ValueError: If the codes have another shape or are out of range.
        """
        return self.quantizer.embed(codes)

    def decode(self, codes: Tensor, samples: int | None = None) -> Tensor:
        """Return the audio of codes.

        Args:
            codes: ``(batch, frames, codebooks)``, at least one frame.
            samples: To cut the audio to, as what was encoded; ``None``: whole frames.

        Returns:
            ``(batch, samples)`` float32; it may exceed [-1, 1].

        Raises:
            ValueError: If the codes have another shape, are out of range or too few for the samples.
        """
        whole = codes.shape[1] * self.hop_length if codes.ndim > 1 else 0
        if not whole or (samples is not None and not 0 < samples <= whole):
            raise ValueError(f"expected codes (batch, frames, {self.codebooks}) of at least {samples or 1} samples, "
                             f"got {tuple(codes.shape)}, which makes {whole}")  # fmt: skip
        audio: Tensor = self.decoder(self.quantizer.values(codes))
        return audio[:, :samples]

    def forward(self, audio: Tensor) -> CodecOutput:
        """Reconstruct audio; in training, the codes learn from it.

        Args:
            audio: As for ``latents``, which says what is refused.
        """
        latents = self.latents(audio)
        quantized: Quantized = self.quantizer(latents)
        return CodecOutput(self.decoder(quantized.values)[:, : audio.shape[1]], latents, quantized)
