"""HQ-VAE (Takida et al. 2024): a hierarchy of stochastically quantised levels, SoniDo's first stage."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.audio import power_spectrum
from sonido_bench.foundation.sonido.blocks import Upsample, conv, unit_power_start
from sonido_bench.foundation.sonido.config import LevelName, StageOneConfig
from sonido_bench.foundation.sonido.front_end import LogFrequencyFrontEnd, WaveformFrontEnd, build_front_end
from sonido_bench.foundation.sonido.level import Level
from sonido_bench.foundation.sonido.objective import (
    half_log_mse,
    log_spectral_distance,
    multi_resolution_stft_loss,
    si_snr,
)
from sonido_bench.foundation.sonido.quantizer import Quantized, QuantizerKind

__all__ = ["HQVAE", "HQVAEOutput"]

_LSD_WINDOW = 2048
_POWER_FLOOR = 1e-8


class HQVAEOutput(NamedTuple):
    """What a training step needs.

    Attributes:
        loss: Nats per data dimension (but for constants): the terms below, weighted and added, plus the STFT loss.
        reconstruction: ``0.5 log(mean squared error)``.
        latent: The latent terms of all levels, summed and divided by the number of data dimensions, unweighted.
        auxiliary: ``0.5 log(mean squared error)`` of the spectrogram heads, summed over levels, unweighted.
        metrics: Scalars without gradient: ``mse``, ``lsd`` (dB), ``si_snr`` (dB; waveform only), and per level
            ``top/perplexity``, ``top/perplexity_min``, ``top/used``, ``top/variance``.
    """

    loss: Tensor
    reconstruction: Tensor
    latent: Tensor
    auxiliary: Tensor
    metrics: dict[str, Tensor]


class HQVAE(nn.Module):
    """Autoencoder with levels of codes from coarse to fine.

    Bottom-up, convolutions give an activation at each level. Top-down, a state gathers what the codes say: each level
    upsamples it, looks at it together with the level's activation, quantises what it finds worth adding (an
    *injected* level, SQ-VAE-2; further residual layers as in RSQ-VAE), and adds the code. The decoder sees the state
    alone. Nothing is normalised over time or batch: a token depends on ``receptive_field`` samples and no others.

    With a log-frequency front end and several bands (one per octave), each band has its own codebook, and the
    convolutions in time stay within a band.

    Args:
        config: Levels, front end and weights of the loss.
        quantizer: ``stochastic``, or ``ema`` codebooks (VQ-VAE) for comparison.

    Raises:
        ConfigError: If widths, bands and front end do not fit together.
    """

    def __init__(self, config: StageOneConfig, quantizer: QuantizerKind = "stochastic") -> None:
        super().__init__()
        self.config = config
        self.front_end = build_front_end(config)
        self.levels: tuple[LevelName, ...] = tuple(level.name for level in config.levels)
        finest = config.levels[-1]
        bands, channels = config.bands, self.front_end.channels
        self.stem = conv(channels, finest.width, 1, bands)
        self.stages = nn.ModuleDict()
        for index, level in enumerate(config.levels):
            above = config.levels[index - 1] if index else None
            below = config.levels[index + 1] if index + 1 < len(config.levels) else None
            self.stages[level.name] = Level(level, above, below, bands, quantizer)
        self.out = nn.Sequential(
            Upsample(finest.width, finest.width, finest.stride, bands),
            conv(finest.width, channels, 1, bands),
        )
        self.heads = nn.ModuleDict()
        self.waveform_spectrogram: LogFrequencyFrontEnd | None = None
        if config.auxiliary_weight and len(config.levels) > 1:
            if isinstance(self.front_end, WaveformFrontEnd):
                self.waveform_spectrogram = _spectrogram(config)
            spectrum = self.waveform_spectrogram or self.front_end
            self.heads.update({level.name: conv(level.width, spectrum.channels) for level in config.levels[:-1]})

    def hop(self, level: str) -> int:
        """Return the samples of one frame of a level."""
        return self.config.hop(level)

    def codebooks(self, level: str) -> int:
        """Return the tokens of one frame of a level."""
        return self._stage(level).quantizer.codebooks

    def code_dim(self, level: str) -> int:
        """Return the width of ``embed`` and ``latents`` of a level."""
        return self.codebooks(level) * self.config.level(level).code_dim

    def codes(self, level: str) -> Tensor:
        """Return the codes of a level, ``(codebooks, codebook_size, code_dim)``."""
        return self._stage(level).quantizer.codes

    @property
    def common_hop(self) -> int:
        """Samples of which the audio must be a multiple: a frame of the coarsest level."""
        return self.hop(self.levels[0])

    @property
    def receptive_field(self) -> dict[str, int]:
        """Level to the samples, at most, that one of its tokens depends on, centred on the token's frame."""
        hop = self.front_end.hop_length
        reaches, reach = {}, self.front_end.reach
        for name in reversed(self.levels):
            reach += self._stage(name).down.reach * hop
            hop = self.hop(name)
            reach += hop * self._stage(name).blocks_reach
            reaches[name] = reach
        state = 0
        for name in self.levels:
            stage, hop = self._stage(name), self.hop(name)
            if stage.up is not None:
                state += stage.up.reach * hop * stage.ratio_above
            reaches[name] = max(reaches[name], state) + hop * stage.latent_reach
            state = reaches[name] + hop * stage.blocks_reach
        return {name: 2 * reaches[name] + self.hop(name) for name in self.levels}

    @torch.no_grad()
    def encode(self, audio: Tensor, down_to: str | None = None) -> dict[LevelName, Tensor]:
        """Return the tokens of audio: the nearest codes, whatever mode the module is in.

        Args:
            audio: ``(batch, samples)`` float32, a multiple of ``common_hop``.
            down_to: The finest level wanted, which saves the time of finer ones; ``None``: all.

        Returns:
            Level to ``(batch, frames, codebooks)`` int64.

        Raises:
            ValueError: If the audio has another shape.
        """
        return {name: pair[1] for name, pair in self._analyse(audio, down_to).items()}

    @torch.no_grad()
    def latents(self, audio: Tensor, down_to: str | None = None) -> dict[LevelName, Tensor]:
        """Return what the codebooks are asked to code; arguments as for ``encode``.

        Returns:
            Level to ``(batch, frames, code_dim(level))``.
        """
        analysed = self._analyse(audio, down_to)
        return {name: self._stage(name).quantizer.targets(pair[0]) for name, pair in analysed.items()}

    def embed(self, level: str, tokens: Tensor) -> Tensor:
        """Look codes up: ``(batch, frames, codebooks)`` to ``(batch, frames, code_dim(level))``.

        Raises:
            ValueError: If the tokens have another shape or are out of range.
        """
        return self._stage(level).quantizer.embed(tokens)

    def decode(self, tokens: Mapping[LevelName, Tensor]) -> Tensor:
        """Decode the coarsest level, the two coarsest, or all: finer levels that are missing add nothing.

        Args:
            tokens: Level to ``(batch, frames, codebooks)``, for the coarsest level and as many finer ones as wanted.

        Returns:
            ``(batch, channels, frames)`` as the front end gives it; for the waveform ``(batch, 1, samples)``.

        Raises:
            ValueError: If a coarser level is missing, or the frames of two levels do not match.
        """
        given = [name for name in self.levels if name in tokens]
        if not given or len(given) != len(tokens) or given != list(self.levels[: len(given)]):
            raise ValueError(f"expected tokens of the coarsest of {list(self.levels)}, got {list(tokens)}")
        span = tokens[given[0]].shape[1] * self.hop(given[0])
        for name in given:
            if tokens[name].shape[1] * self.hop(name) != span:
                raise ValueError(f"expected {span // self.hop(name)} frames of {name}, got {tokens[name].shape[1]}")
        state = None
        for name in self.levels:
            stage = self._stage(name)
            if name in tokens:
                values = stage.quantizer.values(tokens[name])
            else:  # the mean code
                values = values.new_zeros(len(values), span // self.hop(name), stage.latent_dim)
            state = stage.add(stage.start(state), values)
        decoded: Tensor = self.out(state)
        return decoded

    def forward(self, audio: Tensor, temperature: float = 1.0, kl_weight: float = 1.0) -> HQVAEOutput:
        """Reconstruct, and return the loss and its parts.

        The loss is the negative bound of HQ-VAE (sums over all positions) divided by the number of data dimensions.

        Args:
            audio: ``(batch, samples)`` float32, a multiple of ``common_hop``.
            temperature: Of the Gumbel-softmax.
            kl_weight: Of the latent terms, multiplied by the configuration's: for warming them up.

        Raises:
            ValueError: If the audio has another shape.
        """
        data = self._read(audio)
        activations = self._bottom_up(data)
        state: Tensor | None = None
        states: dict[str, Tensor] = {}
        quantized: dict[str, Quantized] = {}
        for name in self.levels:
            state, quantized[name] = self._stage(name)(state, activations[name], temperature)
            states[name] = state
        estimate = self.out(state).float()
        auxiliary = self._auxiliary(self._spectrum(audio, data), states)
        reconstruction = half_log_mse(data, estimate)
        latent = sum((q.continuous + q.negative_entropy for q in quantized.values()), data.new_zeros(())) / data.numel()
        loss = reconstruction + kl_weight * self.config.kl_weight * latent + self.config.auxiliary_weight * auxiliary
        if self.config.stft_weight:
            loss = loss + self.config.stft_weight * multi_resolution_stft_loss(data.squeeze(1), estimate.squeeze(1))
        return HQVAEOutput(loss, reconstruction, latent, auxiliary, self._metrics(data, estimate, quantized))

    @torch.no_grad()
    def initialise(self, batches: Sequence[Tensor], generator: torch.Generator | None = None) -> None:
        """Start from data: the front end's statistics, the layers' scales, codes (k-means) and variances.

        Args:
            batches: Audio ``(batch, samples)`` each, a multiple of ``common_hop``; enough for more frames than codes.
            generator: Of k-means.

        Raises:
            DataError: If there is too little audio.
        """
        self.front_end.fit(batches)
        if self.waveform_spectrogram is not None:
            self.waveform_spectrogram.fit(batches)
        with unit_power_start(self):
            for name in self.levels:
                found = [self._analyse(batch, name)[name][0].flatten(0, 1) for batch in batches]
                latents = self._stage(name).standardise(torch.cat(found).unsqueeze(0))
                self._stage(name).quantizer.initialise(latents, generator=generator)
            self.decode(self.encode(batches[0]))
        for last in (self.out[-1], *self.heads.values()):
            last.get_parameter("weight").zero_()  # start from the mean

    def restart_dead_codes(self) -> None:
        """Put codes that are hardly ever used on latents of the last training batch; call it now and then."""
        for name in self.levels:
            self._stage(name).quantizer.restart_dead_codes()

    def _stage(self, level: str) -> Level:
        stage = self.stages[level]
        assert isinstance(stage, Level)
        return stage

    def _read(self, audio: Tensor) -> Tensor:
        """Check audio, and run the front end without gradient."""
        if audio.ndim != 2 or audio.shape[1] == 0 or audio.shape[1] % self.common_hop:
            raise ValueError(
                f"expected audio (batch, samples), samples a multiple of {self.common_hop}, got {tuple(audio.shape)}"
            )
        with torch.no_grad():
            data: Tensor = self.front_end(audio)
        return data

    def _bottom_up(self, data: Tensor) -> dict[LevelName, Tensor]:
        """Return each level's activation ``(batch, width, frames)``."""
        hidden, activations = self.stem(data), {}
        for name in reversed(self.levels):
            stage = self._stage(name)
            hidden = stage.encoder(stage.down(hidden))
            activations[name] = hidden
        return activations

    def _analyse(self, audio: Tensor, down_to: str | None) -> dict[LevelName, tuple[Tensor, Tensor]]:
        """Return latents ``(batch, frames, bands * code_dim)`` and their nearest codes, of the levels wanted."""
        if down_to is not None and down_to not in self.levels:
            raise ValueError(f"expected a level of {list(self.levels)}, got {down_to}")
        wanted = [name for name in self.levels if down_to is None or self.hop(name) >= self.hop(down_to)]
        activations = self._bottom_up(self._read(audio))
        state, analysed = None, {}
        for name in wanted:
            stage = self._stage(name)
            state = stage.start(state)
            latents = stage.latents(state, activations[name])
            tokens = stage.quantizer.tokens(latents)
            analysed[name] = latents, tokens
            if name != wanted[-1]:
                state = stage.add(state, stage.quantizer.values(tokens))
        return analysed

    @torch.no_grad()
    def _spectrum(self, audio: Tensor, data: Tensor) -> Tensor:
        """Return what the heads are to tell: the front end's output, or in a waveform's place a spectrogram."""
        return data if self.waveform_spectrogram is None else self.waveform_spectrogram(audio)

    def _auxiliary(self, spectrum: Tensor, states: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the heads: each tells the spectrum, averaged over a level's frames, from its state."""
        losses = [spectrum.new_zeros(())]
        for name, head in self.heads.items():
            told = head(states[name]).float()
            losses.append(half_log_mse(F.avg_pool1d(spectrum, spectrum.shape[2] // told.shape[2]), told))
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _metrics(self, data: Tensor, estimate: Tensor, quantized: Mapping[str, Quantized]) -> dict[str, Tensor]:
        metrics = {"mse": (data - estimate).square().mean()}
        if isinstance(self.front_end, LogFrequencyFrontEnd):
            metrics["lsd"] = log_spectral_distance(self.front_end.in_nats(data), self.front_end.in_nats(estimate))
        else:
            metrics["si_snr"] = si_snr(data.squeeze(1), estimate.squeeze(1))
            metrics["lsd"] = log_spectral_distance(_log_spectrum(data.squeeze(1)), _log_spectrum(estimate.squeeze(1)))
        for name, level in quantized.items():
            figures = self._stage(name).quantizer.metrics(level.tokens)
            metrics.update({f"{name}/{figure}": value for figure, value in figures.items()})
        return metrics


def _log_spectrum(audio: Tensor) -> Tensor:
    """Log power in nats, ``(batch, samples)`` to ``(batch, bins, frames)``."""
    window = torch.hann_window(_LSD_WINDOW, device=audio.device)
    return (power_spectrum(audio, window, _LSD_WINDOW // 4) + _POWER_FLOOR).log().transpose(1, 2)


def _spectrogram(config: StageOneConfig) -> LogFrequencyFrontEnd:
    """What the heads of a waveform model tell: frames of the finest level that has a head."""
    chosen, hop = config.front_end, config.hop(config.levels[-2].name)
    return LogFrequencyFrontEnd(config.sample_rate, hop, chosen.bins_per_octave, chosen.octaves, chosen.f_min)
