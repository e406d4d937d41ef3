"""What all phases of pre-training share: optimiser, schedule, and noise that follows from the step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from sonido_bench.errors import ConfigError

__all__ = ["Phase", "PhaseConfig"]

CLIP_NORM = 1.0
_OWN_STREAM = 1  # of seeds, so that no generator repeats torch's own


@dataclass(frozen=True)
class PhaseConfig:
    """How one network is trained.

    Attributes:
        steps: Of the optimiser; a multiple of ``validate_every``.
        batch_size: Items of a step, on each process.
        learning_rate: At its highest, of AdamW.
        warmup_steps: In which it rises linearly; a cosine to 0 follows.
        weight_decay: Of matrices; vectors and scalars have none.
        validate_every: Steps between two validations; each is followed by a checkpoint.
        precision: As Lightning writes it, for example ``bf16-mixed``; ``None``: as the trainer's section says.
    """

    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    validate_every: int = 250
    precision: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that train nothing, and a last step without a validation."""
        for field in fields(PhaseConfig):
            value = getattr(self, field.name)
            if field.name == "precision":
                continue
            if value < 0 or (value == 0 and field.name not in ("warmup_steps", "weight_decay")):
                raise ConfigError(f"{field.name} must be positive, got {value}")
        if self.steps % self.validate_every:
            raise ConfigError(
                f"steps must be a multiple of validate_every, so that training ends with a validation and a "
                f"checkpoint, got {self.steps} and {self.validate_every}"
            )


class Phase(pl.LightningModule):
    """A network in training: AdamW, warm-up and cosine by steps, clipped gradients.

    All noise of a step (Gumbel, dropout, codes drawn anew) is drawn from a generator seeded with the step, so that
    training in pieces needs no random state in its checkpoint and gives the same weights as training at a stretch.

    A subclass writes ``training_step`` and ``validation_step`` with ``_log``.

    Attributes:
        model: The network; its weights are what is kept.
        betas: Of AdamW.

    Args:
        model: The network.
        config: How to train.
        seed: Of the noise.
    """

    betas: tuple[float, float] = (0.9, 0.95)

    def __init__(self, model: nn.Module, config: PhaseConfig, seed: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.seed = seed

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Seed the noise of this step; every process has its own."""
        torch.manual_seed(_mix(self.seed, self.global_step, self.global_rank))

    def on_validation_start(self) -> None:
        """Seed the noise of validation, which is the same each time."""
        torch.manual_seed(_mix(self.seed, -1, self.global_rank))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW and its schedule."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.config.learning_rate, betas=self.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients to 1; a sharded model knows how to do that over its processes."""
        sharded = getattr(self.trainer.strategy.model, "clip_grad_norm_", None)
        if sharded is not None:
            sharded(CLIP_NORM)
        else:
            nn.utils.clip_grad_norm_(self.parameters(), CLIP_NORM)

    def learning_rate_factor(self, step: int) -> float:
        """Return the share of the highest learning rate at a step."""
        if step < self.config.warmup_steps:
            return (step + 1) / self.config.warmup_steps
        left = (step - self.config.warmup_steps) / max(1, self.config.steps - self.config.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(left, 1.0)))

    def generator(self, moment: int) -> torch.Generator:
        """Return noise that follows from a moment alone, apart from what is drawn from torch's own generator.

        Args:
            moment: The step; in validation, which has the same noise each time, ``-1 - batch_idx``.
        """
        return torch.Generator().manual_seed(_mix(self.seed, moment, self.global_rank, _OWN_STREAM))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return matrices with weight decay, and the rest without."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def _checked(self, loss: Tensor) -> Tensor:
        """Refuse a loss that would spoil the weights.

        Raises:
            FloatingPointError: If it is not finite.
        """
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.global_step}")
        return loss

    def _log(self, split: str, metrics: Mapping[str, Tensor | float], rows: int) -> None:
        """Log the metrics of a batch under ``train/`` or ``val/``; those of validation are averaged."""
        values = {
            f"{split}/{name}": value.detach().float().mean() if isinstance(value, Tensor) else float(value)
            for name, value in metrics.items()
        }
        self.log_dict(values, batch_size=rows, on_step=split == "train", on_epoch=split != "train")


def _mix(*values: int) -> int:
    """Return one seed for several numbers; unlike a sum, near ones do not meet."""
    seed = 0
    for value in values:
        seed = (seed * 6364136223846793005 + value + 1442695040888963407) % 2**63
    return seed
