"""Training of Jukebox's VQ-VAE."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox.vqvae import VQVAE, VQVAEOutput
from sonido_bench.foundation.phase import Phase, PhaseConfig

__all__ = ["VQVAEStage", "VQVAETraining"]

_BETAS = (0.9, 0.999)  # of Adam, as published; the priors have others


@dataclass(frozen=True)
class VQVAETraining(PhaseConfig):
    """How the VQ-VAE is trained; published: 384,618 steps of 256 items of 8.9 s, without weight decay.

    Attributes:
        learning_rate: At its highest.
        warmup_steps: In which it rises linearly; a cosine to 0 follows.
        weight_decay: Of matrices.
        segment_seconds: Length of an item, rounded to whole frames of the highest level.
        crops: Segments of a recording that is read; divides ``batch_size``.
        initial_batches: That bandwidths and codes start from.
    """

    learning_rate: float = 3e-4
    warmup_steps: int = 100
    weight_decay: float = 0.0
    segment_seconds: float = 1.5
    crops: int = 2
    initial_batches: int = 16

    def __post_init__(self) -> None:
        """Refuse numbers that train nothing."""
        super().__post_init__()
        if self.segment_seconds <= 0 or self.initial_batches < 1 or self.crops < 1:
            raise ConfigError(
                f"vqvae: segment_seconds, initial_batches and crops must be above 0, "
                f"got {self.segment_seconds}, {self.initial_batches} and {self.crops}"
            )

    def samples(self, sample_rate: int, common_hop: int) -> int:
        """Return the length of an item in samples."""
        return max(1, round(self.segment_seconds * sample_rate / common_hop)) * common_hop


class VQVAEStage(Phase):
    """The VQ-VAE in training; batches are mono audio ``(batch, samples)``.

    Bandwidths, codes and their moving averages are in the checkpoint: training goes on where it stopped. Processes
    share codes and averages; thresholds are of the batch of all of them.

    Args:
        model: The autoencoders.
        config: How to train them.
        seed: Of the first codes and of restarts.
    """

    model: VQVAE
    config: VQVAETraining
    initialised: Tensor

    def __init__(self, model: VQVAE, config: VQVAETraining, seed: int = 0) -> None:
        super().__init__(model, config, seed)
        self.register_buffer("initialised", torch.tensor(False))  # in the checkpoint, so that it happens once

    def initialise(self, batches: Sequence[Tensor]) -> None:
        """Measure bandwidths and put codes on latents of the first training batches; once, before training."""
        torch.manual_seed(self.seed)
        self.model.initialise(batches)
        self.initialised.fill_(True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return Adam with the published betas, and the schedule of all phases."""
        configured = super().configure_optimizers()
        for group in configured["optimizer"].param_groups:
            group["betas"] = _BETAS
        return configured

    def on_train_start(self) -> None:
        """Refuse to train from codes that are all zero.

        Raises:
            RuntimeError: If neither ``initialise`` was called nor a checkpoint loaded.
        """
        if not self.initialised:
            raise RuntimeError("call initialise with some batches before training")

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a batch; the codebooks move."""
        output = self.model(batch)
        self._log("train", _parts(output), len(batch))
        return self._checked(output.loss)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log what a batch costs; the codebooks stay."""
        self._log("val", _parts(self.model(batch)), len(batch))


def _parts(output: VQVAEOutput) -> dict[str, Tensor]:
    parts = {"loss": output.loss, "reconstruction": output.reconstruction, "spectral": output.spectral}
    return {**parts, "commitment": output.commitment, **output.metrics}
