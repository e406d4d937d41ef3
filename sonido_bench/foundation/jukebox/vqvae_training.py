"""Training of Jukebox's VQ-VAE."""

from dataclasses import dataclass

from torch import Tensor

from sonido_bench.foundation.audio_phase import DataInitialisedPhase, DataInitialisedTraining
from sonido_bench.foundation.jukebox.vqvae import VQVAE, VQVAEOutput

__all__ = ["VQVAEStage", "VQVAETraining"]


@dataclass(frozen=True)
class VQVAETraining(DataInitialisedTraining):
    """How the VQ-VAE is trained; published: 384,618 steps of 256 items of 8.9 s, without weight decay.

    Attributes:
        learning_rate: At its highest.
        warmup_steps: In which it rises linearly; a cosine to 0 follows.
        weight_decay: Of matrices.
    """

    learning_rate: float = 3e-4
    warmup_steps: int = 100
    weight_decay: float = 0.0


class VQVAEStage(DataInitialisedPhase):
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
    betas = (0.9, 0.999)  # as published; the priors have others

    def __init__(self, model: VQVAE, config: VQVAETraining, seed: int = 0) -> None:
        super().__init__(model, config, seed)

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
