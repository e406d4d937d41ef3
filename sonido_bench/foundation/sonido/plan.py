"""What a model of some size asks for before it is trained: parameters and memory, without building its weights."""

from dataclasses import dataclass

import torch
from torch import nn

from sonido_bench.foundation.sonido.config import PriorConfig, SonidoConfig
from sonido_bench.foundation.sonido.model import Sonido

__all__ = ["PartPlan", "memory_plan"]

_ADAM_STATES = 2
_FULL, _HALF = 4, 2  # bytes of float32 and of bfloat16
_GIB = 2**30


@dataclass(frozen=True)
class PartPlan:
    """One part of a model, which is trained by itself. Memory is per device, in GiB.

    Attributes:
        name: Of the part.
        parameters: Of the whole part.
        weights: In float32, sharded.
        gradients: Likewise.
        optimizer: Adam's two moments, likewise.
        activations: Of a batch of one sequence, estimated; 0 for what is not a transformer.
    """

    name: str
    parameters: int
    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, in GiB."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def as_row(self) -> dict[str, str]:
        """Return what is printed."""
        memory = ("weights", "gradients", "optimizer", "activations", "total")
        return {
            "part": self.name,
            "parameters": f"{self.parameters:,}",
            **{f"{name} (GiB)": f"{getattr(self, name):.2f}" for name in memory},
        }


def memory_plan(config: SonidoConfig, devices: int = 1) -> list[PartPlan]:
    """Count parameters on the meta device, and say what training takes on each of so many devices.

    Weights, gradients and Adam's moments are float32 and sharded over all devices (FSDP); computation is bfloat16.

    Args:
        config: Of the model.
        devices: That share a part.

    Returns:
        One plan for each part, in the order of training.

    Raises:
        ConfigError: If the configuration describes no model.
    """
    with torch.device("meta"):
        model = Sonido(config)
    parts: dict[str, nn.Module] = {"stage_one": model.stage_one}
    parts |= {f"prior {level}": prior for level, prior in model.priors.items()}
    if model.waveform_decoder is not None:
        parts["waveform_decoder"] = model.waveform_decoder
    return [_plan(name, part, config, devices) for name, part in parts.items()]


def _plan(name: str, part: nn.Module, config: SonidoConfig, devices: int) -> PartPlan:
    parameters = sum(parameter.numel() for parameter in part.parameters())
    shard = parameters * _FULL / devices / _GIB
    activations = 0
    if name.startswith("prior "):
        level = config.stage_one.level(name.removeprefix("prior "))
        outputs = config.stage_one.bands * level.layers * level.codebook_size
        activations = _activation_bytes(config.prior(level.name), outputs)
    return PartPlan(name, parameters, shard, shard, _ADAM_STATES * shard, activations / _GIB)


def _activation_bytes(config: PriorConfig, outputs: int) -> int:
    """What the backward pass keeps of one sequence of full context, to about a third.

    A block keeps both normalised streams, both sums, queries, keys, values and result of its attention, and the hidden
    half before and after its activation; with checkpointing only its input, and one block is recomputed at a time.
    The logits are kept in float32, with their gradient.
    """
    block = 4 * config.width + 4 * config.attention_width + 2 * config.mlp_width
    kept = config.depth * config.width + block if config.checkpointing else config.depth * block
    return config.context * (kept * _HALF + 2 * outputs * _FULL)
