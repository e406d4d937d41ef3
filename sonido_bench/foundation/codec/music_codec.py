"""The whole model: a codec, and a language model over its codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.config import CodecConfig
from sonido_bench.foundation.codec.language_model import LanguageModel, LanguageModelConfig
from sonido_bench.foundation.codec.long_audio import decode_long, encode_long, latents_of_long
from sonido_bench.foundation.codec.model import Codec
from sonido_bench.foundation.configuration import parse_dataclass, plain

__all__ = ["LayerConfig", "MusicCodec", "MusicCodecConfig", "parse_config"]


@dataclass(frozen=True)
class LayerConfig:
    """Which activations are the model's features, unless a user asks for others.

    Attributes:
        layers: Blocks of the language model whose output is given, from 1; 0 is the input of the first.
    """

    layers: tuple[int, ...]


@dataclass(frozen=True)
class MusicCodecConfig:
    """A whole model.

    Attributes:
        name: Of the preset.
        codec: Audio to codes and back.
        language_model: Over these codes.
        features: The default features.
    """

    name: str
    codec: CodecConfig
    language_model: LanguageModelConfig
    features: LayerConfig

    def __post_init__(self) -> None:
        """Refuse a language model of other codes, one that reads ahead too far, and layers that it does not have."""
        codes, modelled = self.codec.quantizer, self.language_model
        having = (codes.codebooks, codes.codebook_size)
        if having != (modelled.codebooks, modelled.codebook_size):
            raise ConfigError(
                f"{self.name}: the codec has {having[0]} codebooks of {having[1]} codes, the language model models "
                f"{modelled.codebooks} of {modelled.codebook_size}: make them agree"
            )
        delay = max(modelled.delays or (modelled.codebooks - 1,))
        if modelled.context <= delay + 1:
            raise ConfigError(f"{self.name}: context must be above {delay + 1} frames, got {modelled.context}")
        self.check_layers(self.features.layers)

    def check_layers(self, layers: tuple[int, ...]) -> None:
        """Refuse layers that the language model does not have.

        Raises:
            ConfigError: If there are none, or one is out of range or named twice.
        """
        depth = self.language_model.depth
        if not layers or len(set(layers)) < len(layers) or not all(0 <= layer <= depth for layer in layers):
            raise ConfigError(f"{self.name}: expected different layers from 0 to {depth}, got {list(layers)}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain, JSON-able values, from which ``parse_config`` makes an equal configuration."""
        values: dict[str, Any] = plain(self)
        return values


def parse_config(values: Mapping[str, Any], source: str = "configuration") -> MusicCodecConfig:
    """Check plain values, as ``MusicCodecConfig.as_dict`` gives them; see ``parse_dataclass``."""
    return parse_dataclass(MusicCodecConfig, values, source)


class MusicCodec(nn.Module):
    """Audio to codes to language model, and codes back to audio, as MusicGen (Copet et al. 2023) has them.

    Audio and codes may have any length.

    Args:
        config: Sizes of both parts.

    Attributes:
        config: As given.
        codec: Between audio and codes.
        language_model: Over the codes.
    """

    def __init__(self, config: MusicCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.codec = Codec(config.codec)
        self.language_model = LanguageModel(config.language_model)

    @property
    def sample_rate(self) -> int:
        """Of the audio that it reads and writes, in Hz."""
        return self.codec.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return self.codec.hop_length

    def encode(self, audio: Tensor) -> Tensor:
        """Return the codes of ``(batch, samples)``; see ``encode_long``."""
        return encode_long(self.codec, audio)

    def latents(self, audio: Tensor) -> Tensor:
        """Return what the codes of ``(batch, samples)`` are to stand for; see ``latents_of_long``."""
        return latents_of_long(self.codec, audio)

    def decode(self, codes: Tensor, codebooks: int | None = None) -> Tensor:
        """Return the audio of ``(batch, frames, codebooks)``; see ``decode_long``."""
        return decode_long(self.codec, codes, codebooks)
