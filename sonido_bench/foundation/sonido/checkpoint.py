"""SoniDo models as folders; see ``foundation/checkpoint.py``."""

from dataclasses import replace
from pathlib import Path

from sonido_bench.foundation.card import Row
from sonido_bench.foundation.checkpoint import (
    CheckpointFormat,
    load_card,
    load_configuration,
    load_model,
    save_checkpoint,
)
from sonido_bench.foundation.sonido.config import SonidoConfig, parse_config
from sonido_bench.foundation.sonido.model import Sonido

__all__ = ["load_checkpoint", "load_checkpoint_config", "write_gate"]


def load_checkpoint(folder: Path) -> Sonido:
    """Read a model, in float32 on the CPU and in evaluation mode.

    Raises:
        DataError: If the folder is not a checkpoint of SoniDo, whole and unchanged.
    """
    return load_model(folder, _FORMAT)


def load_checkpoint_config(folder: Path) -> SonidoConfig:
    """Check the sums of a checkpoint and read its configuration.

    Raises:
        DataError: As ``load_checkpoint`` does.
    """
    return load_configuration(folder, _FORMAT)


def write_gate(folder: Path, gate: tuple[Row, ...], levels: tuple[Row, ...]) -> None:
    """Write the figures of the gate into the card of a checkpoint, whose weights stay as they are.

    Args:
        folder: Of the checkpoint.
        gate: Figures of the probes.
        levels: Use of the codes and reconstruction.

    Raises:
        DataError: If the checkpoint cannot be read or written.
    """
    model, card = load_checkpoint(folder), load_card(folder)
    save_checkpoint(folder, model, replace(card, gate=gate, levels=levels))


def _blocks(config: SonidoConfig) -> int:
    stage_one, decoder = config.stage_one, config.waveform_decoder
    count = sum(level.depth + level.layers for level in stage_one.levels) + (decoder.depth if decoder else 0)
    return count + sum(prior.depth for prior in config.priors)


_FORMAT = CheckpointFormat(parse_config, Sonido, _blocks)
