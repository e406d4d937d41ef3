"""Training of the autoencoder, and of the network that makes its spectrograms audible."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.audio_phase import AudioTraining, DataInitialisedPhase, DataInitialisedTraining
from sonido_bench.foundation.phase import Phase
from sonido_bench.foundation.sonido.hqvae import HQVAE, HQVAEOutput
from sonido_bench.foundation.sonido.waveform_decoder import WaveformDecoder

__all__ = ["StageOne", "StageOneTraining", "WaveformStage"]


@dataclass(frozen=True)
class StageOneTraining(DataInitialisedTraining):
    """How the autoencoder is trained. Shares are of the steps.

    Attributes:
        kl_start: Factor of the latent terms at first; their full weight from the first step goes with collapse.
        kl_hold: Share of the steps that it holds for.
        kl_full: Share of the steps after which the factor is 1, linear between the two.
        temperature: Of the Gumbel-softmax, at the start and at its end.
        temperature_end: Share of the steps after which the latter is reached, linear before.
        restart_every: Steps between two searches for unused codes, until the temperature is at its end; 0: never.
    """

    kl_start: float = 0.02
    kl_hold: float = 0.1
    kl_full: float = 0.25
    temperature: tuple[float, float] = (0.5, 0.1)
    temperature_end: float = 0.7
    restart_every: int = 25

    def __post_init__(self) -> None:
        """Refuse schedules that do not run forwards."""
        super().__post_init__()
        if not 0 <= self.kl_hold < self.kl_full <= 1 or not 0 < self.temperature_end <= 1:
            raise ConfigError(
                f"stage_one: expected 0 <= kl_hold < kl_full <= 1 and 0 < temperature_end <= 1, "
                f"got {self.kl_hold}, {self.kl_full}, {self.temperature_end}"
            )
        if min(self.temperature) <= 0:
            raise ConfigError(f"stage_one: temperature must be above 0, got {self.temperature}")

    def kl_factor(self, step: int) -> float:
        """Return the factor of the latent terms at a step."""
        progress = (step / self.steps - self.kl_hold) / (self.kl_full - self.kl_hold)
        return self.kl_start + (1 - self.kl_start) * min(max(progress, 0.0), 1.0)

    def temperature_at(self, step: int) -> float:
        """Return the temperature of the Gumbel-softmax at a step."""
        first, last = self.temperature
        return first + (last - first) * min(step / (self.temperature_end * self.steps), 1.0)


class StageOne(DataInitialisedPhase):
    """The autoencoder in training; batches are mono audio ``(batch, samples)``.

    Args:
        model: The autoencoder.
        config: How to train it.
        seed: Of the noise.
    """

    model: HQVAE
    config: StageOneTraining

    def __init__(self, model: HQVAE, config: StageOneTraining, seed: int = 0) -> None:
        super().__init__(model, config, seed)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        step = self.global_step
        temperature, factor = self.config.temperature_at(step), self.config.kl_factor(step)
        output = self.model(batch, temperature, factor)
        self._log("train", {**_parts(output), "kl_factor": factor, "temperature": temperature}, len(batch))
        return self._checked(output.loss)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log what a batch costs with the nearest codes."""
        self._log("val", _parts(self.model(batch)), len(batch))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take a step, and now and then put codes that are not used where the latents are.

        Here and not in a hook at the batch's end, which comes after the checkpoint.
        """
        step = self.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        every = self.config.restart_every
        if every and step % every == every - 1 and step < self.config.temperature_end * self.config.steps:
            self.model.restart_dead_codes()


def _parts(output: HQVAEOutput) -> dict[str, Tensor]:
    parts = {"loss": output.loss, "reconstruction": output.reconstruction, "latent": output.latent}
    return {**parts, "auxiliary": output.auxiliary, **output.metrics}


class WaveformStage(Phase):
    """The waveform decoder in training, on the spectrograms that a finished autoencoder decodes.

    Args:
        decoder: The network.
        autoencoder: Frozen; not a part of the checkpoints.
        config: How to train.
        seed: Of the noise.
    """

    model: WaveformDecoder

    def __init__(self, decoder: WaveformDecoder, autoencoder: HQVAE, config: AudioTraining, seed: int = 0) -> None:
        super().__init__(decoder, config, seed)
        self._autoencoder = [autoencoder.eval().requires_grad_(False)]  # in a list: no submodule

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a batch ``(batch, samples)``."""
        loss = self._loss(batch)
        self._log("train", {"loss": loss}, len(batch))
        return self._checked(loss)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log the loss of a batch."""
        self._log("val", {"loss": self._loss(batch)}, len(batch))

    def _loss(self, audio: Tensor) -> Tensor:
        autoencoder = self._autoencoder[0].to(audio.device)
        with torch.no_grad():
            spectrogram = autoencoder.decode(autoencoder.encode(audio))
        loss: Tensor = self.model.loss(spectrogram, audio)
        return loss
