"""Codecs with their language models as folders; see ``foundation/checkpoint.py``."""

from pathlib import Path

from sonido_bench.foundation.checkpoint import CheckpointFormat, load_model
from sonido_bench.foundation.codec.music_codec import MusicCodec, MusicCodecConfig, parse_config

__all__ = ["load_checkpoint"]


def load_checkpoint(folder: Path) -> MusicCodec:
    """Read a model, in float32 on the CPU and in evaluation mode.

    Raises:
        DataError: If the folder is not a checkpoint of a codec with its language model, whole and unchanged.
    """
    return load_model(folder, _FORMAT)


def _blocks(config: MusicCodecConfig) -> int:
    seanet = config.codec.seanet
    convolutions = len(seanet.ratios) * seanet.residual_layers
    return convolutions + seanet.lstm_layers + config.codec.quantizer.codebooks + config.language_model.depth


_FORMAT = CheckpointFormat(parse_config, MusicCodec, _blocks)
