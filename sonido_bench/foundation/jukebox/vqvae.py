"""Jukebox's VQ-VAE (Dhariwal et al. 2020, section 3): an autoencoder with a codebook for each of three rates."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import DataError
from sonido_bench.foundation.codebook import EMACodebook, nearest, perplexity, sum_over_processes, token_shares
from sonido_bench.foundation.jukebox.blocks import Decoder, DecoderBlock, Encoder, EncoderBlock
from sonido_bench.foundation.jukebox.loss import (
    largest_squares,
    measure_bandwidth,
    spectral_convergence_db,
    spectral_loss,
)
from sonido_bench.foundation.jukebox.vqvae_config import PUBLISHED, TINY, VQVAEConfig

__all__ = ["PUBLISHED", "TINY", "VQVAE", "VQVAEConfig", "VQVAEOutput"]


class VQVAEOutput(NamedTuple):
    """What a training step needs. The terms are summed over the autoencoders.

    Attributes:
        loss: The terms below, weighted and added.
        reconstruction: Squared error, and the largest squared errors by their weight, over the data's variance.
        spectral: Spectral loss over its bandwidth, unweighted.
        commitment: Mean squared distance of latents to their codes, summed over levels, unweighted.
        metrics: Scalars without gradient, per level: ``level_0/spectral_convergence`` (dB), ``level_0/l2`` (squared
            error over variance), and with codebooks ``level_0/perplexity`` (of the batch's codes), ``level_0/used``
            (share of codes that the batch has) and, with restarts, ``level_0/alive`` (share above the threshold). The
            first two, in a hierarchical model, are of level 0 alone.
    """

    loss: Tensor
    reconstruction: Tensor
    spectral: Tensor
    commitment: Tensor
    metrics: dict[str, Tensor]


class VQVAE(nn.Module):
    """An autoencoder for each level, all fed the same waveform: no level can leave its work to another.

    Nothing is normalised over time or batch: a token depends on the samples within ``reach`` of its frame.

    Args:
        config: Sizes, codebooks and weights of the loss.
    """

    bandwidth_l2: Tensor
    bandwidth_spectral: Tensor

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = config.levels
        highest = [self.levels - 1] if config.hierarchical else range(self.levels)
        self.encoders = nn.ModuleList(_encoder(config, level) for level in highest)
        self.decoders = nn.ModuleList(_decoder(config, level) for level in highest)
        self.codebooks = nn.ModuleList()
        if config.codebook_size is not None:
            self.codebooks.extend(_codebook(config, config.codebook_size) for _ in range(self.levels))
        self.register_buffer("bandwidth_l2", torch.tensor(1.0))
        self.register_buffer("bandwidth_spectral", torch.tensor(1.0))

    @property
    def common_hop(self) -> int:
        """Samples of which the audio must be a multiple: a frame of the highest level."""
        return self.hop(self.levels - 1)

    def hop(self, level: int) -> int:
        """Return the samples of one frame of a level."""
        return self.config.hop(level)

    def reach(self, level: int) -> int:
        """Return the samples, at most, before and after its frame that a token of a level depends on."""
        if self.config.hierarchical:
            return Encoder([_encoder_block(self.config, -1, below) for below in range(level + 1)]).reach
        encoder = self.encoders[level]
        assert isinstance(encoder, Encoder)
        return encoder.reach

    def codes(self, level: int) -> Tensor:
        """Return the codes of a level, ``(codebook_size, code_dim)``."""
        return self._codebook(level).codes[0]

    @torch.no_grad()
    def encode(self, audio: Tensor) -> list[Tensor]:
        """Return the tokens of all levels: the nearest codes, whatever mode the module is in.

        Args:
            audio: ``(batch, samples)`` in [-1, 1], a multiple of ``common_hop``.

        Returns:
            ``(batch, samples // hop(level))`` int64 of each level, level 0 first.

        Raises:
            ValueError: If the audio has another shape.
            DataError: If it is not finite.
        """
        audio = self._read(audio, self.common_hop)
        return [self._tokens(latents, level) for level, latents in enumerate(self._latents(audio))]

    @torch.no_grad()
    def encode_level(self, audio: Tensor, level: int) -> Tensor:
        """Return the tokens of one level, as ``encode``, without the work for others.

        Args:
            audio: ``(batch, samples)`` in [-1, 1], a multiple of ``hop(level)``.
            level: Which.
        """
        self._codebook(level)  # that there is such a level
        if self.config.hierarchical:
            return self.encode(audio)[level]
        audio = self._read(audio, self.hop(level))
        return self._tokens(self.encoders[level](audio.unsqueeze(1))[-1], level)

    def embed(self, tokens: Tensor, level: int) -> Tensor:
        """Look codes up: ``(batch, frames)`` to ``(batch, frames, code_dim)``.

        Raises:
            ValueError: If the tokens have another shape or are out of range.
        """
        codes = self.codes(level)
        if tokens.ndim != 2 or not tokens.numel() or tokens.dtype != torch.int64:
            raise ValueError(f"expected int64 tokens (batch, frames), got {tokens.dtype} {tuple(tokens.shape)}")
        if tokens.min() < 0 or tokens.max() >= len(codes):
            raise ValueError(
                f"expected tokens of 0 to {len(codes) - 1}, got {int(tokens.min())} to {int(tokens.max())}"
            )
        return F.embedding(tokens, codes)

    def decode(self, tokens: Tensor, level: int) -> Tensor:
        """Decode the tokens of one level.

        Args:
            tokens: ``(batch, frames)`` int64.
            level: Whose; in a hierarchical model, the other levels say nothing (see ``decode_levels``).

        Returns:
            Audio ``(batch, samples)``.

        Raises:
            ValueError: If the tokens have another shape or are out of range.
        """
        return self.decode_levels({level: tokens})

    def decode_levels(self, tokens: Mapping[int, Tensor]) -> Tensor:
        """Decode the finest of the levels that are given; in a hierarchical model, all of them together.

        What a hierarchical model lacks is filled with the level's mean code.

        Args:
            tokens: Level to ``(batch, frames)`` int64, all of one duration.

        Returns:
            Audio ``(batch, samples)``.

        Raises:
            ValueError: If there are none, their frames do not match, or they are out of range.
        """
        embedded = {level: self.embed(given, level).transpose(1, 2) for level, given in tokens.items()}
        sizes = {(len(given), given.shape[1] * self.hop(level)) for level, given in tokens.items()}
        if len(sizes) != 1:
            raise ValueError(f"expected tokens of one or more levels, as long as each other, got {sorted(sizes)}")
        finest, (rows, length) = min(tokens), sizes.pop()
        if not self.config.hierarchical:
            return self._decoded([embedded[finest]], finest)
        if length % self.common_hop:
            raise ValueError(f"expected tokens of a multiple of {self.common_hop} samples, got {length}")
        for level in set(range(self.levels)) - set(tokens):
            book = self._codebook(level)
            mean = (book.sums[0].sum(dim=0) / book.counts[0].sum()).view(1, -1, 1)
            embedded[level] = mean.expand(rows, -1, length // self.hop(level))
        return self._decoded([embedded[level] for level in range(self.levels)], 0)

    @torch.no_grad()
    def reconstruct(self, audio: Tensor) -> list[Tensor]:
        """Return what is left of audio at each level: encoded, quantised (if there are codebooks) and decoded.

        Args:
            audio: ``(batch, samples)``, a multiple of ``common_hop``.

        Returns:
            ``(batch, samples)`` of each level, level 0 first; in a hierarchical model, from that level and those above.
        """
        if not self.codebooks:
            latents = self._latents(self._read(audio, self.common_hop))
            return [self._decoded([latent], level) for level, latent in enumerate(latents)]
        tokens = dict(enumerate(self.encode(audio)))
        return [self.decode_levels({lv: tokens[lv] for lv in tokens if lv >= level}) for level in range(self.levels)]

    def forward(self, audio: Tensor) -> VQVAEOutput:
        """Reconstruct, and return the loss and its parts; in training, also move the codebooks.

        Args:
            audio: ``(batch, samples)`` in [-1, 1], a multiple of ``common_hop``, at least ``linf_k`` samples.

        Raises:
            ValueError: If the audio has another shape.
            DataError: If it is not finite.
        """
        audio = self._read(audio, self.common_hop)
        latents = self._latents(audio)
        commitment, metrics, values = audio.new_zeros(()), {}, []
        for level, latent in enumerate(latents):
            value, distance, figures = self._quantised(latent, level)
            commitment = commitment + distance
            values.append(value)
            metrics.update(figures)
        reconstruction, spectral = audio.new_zeros(()), audio.new_zeros(())
        for level in range(len(self.decoders)):
            estimate = self._decoded(values if self.config.hierarchical else [values[level]], level)
            sample_loss, spectral_term, figures = self._compared(audio, estimate, level)
            reconstruction, spectral = reconstruction + sample_loss, spectral + spectral_term
            metrics.update(figures)
        loss = reconstruction + self.config.spectral_weight * spectral + self.config.commit * commitment
        return VQVAEOutput(loss, reconstruction, spectral, commitment, metrics)

    @torch.no_grad()
    def initialise(self, batches: Sequence[Tensor]) -> None:
        """Start from data: measure the bandwidths, and put the codes on random latents.

        In a distributed run, call it on every process: bandwidths are of all, codes of the first.

        Args:
            batches: Audio ``(batch, samples)`` each, as long as items of training.

        Raises:
            DataError: If there is none, or only silence.
        """
        audio = [self._read(batch, self.common_hop) for batch in batches]
        bandwidth = measure_bandwidth(audio, self.config.metric_stft)
        self.bandwidth_l2.copy_(bandwidth.l2)
        self.bandwidth_spectral.copy_(bandwidth.spectral)
        found: list[list[Tensor]] = [[] for _ in self.codebooks]
        for batch in audio:
            for chosen, latents in zip(found, self._latents(batch), strict=False):
                points = latents.transpose(1, 2).flatten(0, 1)
                chosen.append(points[torch.randperm(len(points))[: self.config.codebook_size].to(points.device)])
        for level, chosen in enumerate(found):
            self._codebook(level).initialise(torch.cat(chosen).unsqueeze(1))

    def _codebook(self, level: int) -> EMACodebook:
        if not self.codebooks:
            raise ValueError("expected codebooks, but this model does not quantise; set codebook_size")
        if not 0 <= level < self.levels:
            raise ValueError(f"expected a level of 0 to {self.levels - 1}, got {level}")
        book = self.codebooks[level]
        assert isinstance(book, EMACodebook)
        return book

    def _read(self, audio: Tensor, hop: int) -> Tensor:
        if audio.ndim != 2 or not audio.numel() or audio.shape[1] % hop:
            raise ValueError(
                f"expected audio (batch, samples), samples a multiple of {hop}, got {tuple(audio.shape)}; pad or cut it"
            )
        if not torch.isfinite(audio).all():
            raise DataError("expected finite audio, found NaN or infinity; check the recordings")
        return audio.float()

    def _latents(self, audio: Tensor) -> list[Tensor]:
        """Return ``(batch, code_dim, frames)`` of each level."""
        outputs = [encoder(audio.unsqueeze(1)) for encoder in self.encoders]
        return list(outputs[0]) if self.config.hierarchical else [output[-1] for output in outputs]

    def _tokens(self, latents: Tensor, level: int) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            points = _as_points(latents).transpose(0, 1)
            return nearest(points, self._codebook(level).codes).view(len(latents), -1)

    def _decoded(self, codes: Sequence[Tensor], level: int) -> Tensor:
        audio: Tensor = self.decoders[level](codes)
        return audio.squeeze(1)

    def _quantised(self, latents: Tensor, level: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return what goes on to the decoder, the latents' mean squared distance to their codes, and metrics."""
        if not self.codebooks:
            return latents, latents.new_zeros(()), {}
        book = self._codebook(level)
        points = _as_points(latents)
        with torch.autocast(points.device.type, enabled=False):
            output = book(points)
        values = output.values.view(len(latents), -1, self.config.code_dim).transpose(1, 2)
        distance = F.mse_loss(points, output.codes)
        shares = token_shares(output.tokens, book.codebook_size)[0]
        if self.training:  # in validation, processes need not keep step
            shares = sum_over_processes(shares)
            shares = shares / shares.sum()
        metrics = {"perplexity": perplexity(shares), "used": (shares > 0).float().mean()}
        if self.config.restart:
            metrics["alive"] = book.alive.float().mean()
        return values, distance, {f"level_{level}/{name}": value for name, value in metrics.items()}

    def _compared(self, audio: Tensor, estimate: Tensor, level: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the loss of an autoencoder's samples, that of its spectrum, and metrics."""
        config, residual = self.config, estimate.float() - audio
        l2 = residual.square().mean() / self.bandwidth_l2
        loss = config.l2_weight * l2
        if config.linf_weight:
            loss = loss + config.linf_weight * largest_squares(residual, config.linf_k) / self.bandwidth_l2
        spectral = audio.new_zeros(())
        if config.spectral_weight:
            spectral = spectral_loss(audio, estimate, config.stfts) / self.bandwidth_spectral
        with torch.no_grad():
            convergence = spectral_convergence_db(audio, estimate, config.metric_stft)
        metrics = {f"level_{level}/l2": l2.detach(), f"level_{level}/spectral_convergence": convergence}
        return loss, spectral, metrics


def _as_points(latents: Tensor) -> Tensor:
    """Map ``(batch, code_dim, frames)`` to ``(batch * frames, 1, code_dim)`` float32, as a codebook wants them."""
    return latents.float().transpose(1, 2).flatten(0, 1).unsqueeze(1)


def _multiplier(config: VQVAEConfig, level: int) -> int:
    return max(config.multipliers) if config.hierarchical else config.multipliers[level]


def _encoder_block(config: VQVAEConfig, level: int, below: int) -> EncoderBlock:
    """Build the block of level ``below`` in the encoder of a level."""
    factor, dim = _multiplier(config, level), config.code_dim
    return EncoderBlock(
        dim if below else 1,
        factor * config.width,
        dim,
        config.downs[below],
        config.strides[below],
        factor * config.depth,
        config.dilation_growth,
        config.dilation_cycle,
    )


def _encoder(config: VQVAEConfig, level: int) -> Encoder:
    return Encoder([_encoder_block(config, level, below) for below in range(level + 1)])


def _decoder(config: VQVAEConfig, level: int) -> Decoder:
    factor, dim = _multiplier(config, level), config.code_dim
    blocks = [
        DecoderBlock(
            dim,
            factor * config.width,
            dim,
            config.downs[below],
            config.strides[below],
            factor * config.depth,
            config.dilation_growth,
            config.dilation_cycle,
            config.reverse_decoder_dilation,
        )
        for below in range(level + 1)
    ]
    return Decoder(blocks, dim)


def _codebook(config: VQVAEConfig, codebook_size: int) -> EMACodebook:
    return EMACodebook(
        codebook_size,
        config.code_dim,
        decay=config.decay,
        restart_below=config.restart_below if config.restart else 0.0,
        relative=config.restart_relative,
        commitment=config.commit,
        keep_sums=config.restart_keeps_sums,
    )
