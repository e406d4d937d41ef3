"""What a codec is made of, as data: stored beside its weights."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.configuration import parse_dataclass, plain

__all__ = ["PUBLISHED", "TINY", "CodecConfig", "QuantizerConfig", "SEANetConfig", "parse_config"]


@dataclass(frozen=True)
class SEANetConfig:
    """The convolutional encoder, and the decoder that mirrors it.

    Attributes:
        ratios: Strides in the order of the *decoder*; the encoder goes through them from the end.
        dimension: Channels of the latents, and width of a code.
        filters: Channels at the audio's rate; they double with every stride.
        kernel_size: Of the first convolution of each half.
        last_kernel_size: Of the last one.
        residual_kernel_size: Of the residual blocks' dilated convolutions.
        residual_layers: Residual blocks at each rate.
        dilation_base: Dilation of a rate's residual block ``i`` is this to the power of ``i``.
        compress: By which a residual block narrows its channels inside.
        lstm_layers: At the latents' rate, in each half.
    """

    ratios: tuple[int, ...] = (8, 5, 4, 4)
    dimension: int = 128
    filters: int = 64
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    lstm_layers: int = 2

    def __post_init__(self) -> None:
        """Refuse sizes that make no network, and kernels that have no middle."""
        for name, value in asdict(self).items():
            if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
                raise ConfigError(f"{name} must be positive, got {value}")
        kernels = (self.kernel_size, self.last_kernel_size, self.residual_kernel_size)
        if not all(kernel % 2 for kernel in kernels):
            raise ConfigError(f"kernel sizes must be odd, got {kernels}")
        if self.filters % self.compress:
            raise ConfigError(f"compress must divide filters, got {self.compress} and {self.filters}")

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return math.prod(self.ratios)


@dataclass(frozen=True)
class QuantizerConfig:
    """Residual vector quantisation.

    Attributes:
        codebooks: Stages, each coding what the ones before left over.
        codebook_size: Codes of a stage.
        decay: Of the codes' moving averages, per training step.
        kmeans_iterations: With which the codes start from the first training batch.
        restart_below: A code restarts once its count falls below this share of the count that each would have if all
            were used alike; 0: never.
    """

    codebooks: int = 4
    codebook_size: int = 2048
    decay: float = 0.99
    kmeans_iterations: int = 50
    restart_below: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what learns nothing."""
        if min(self.codebooks, self.codebook_size, self.kmeans_iterations) < 1:
            raise ConfigError("codebooks, codebook_size and kmeans_iterations must be positive")
        if not 0 <= self.decay < 1 or not 0 <= self.restart_below < 1:
            raise ConfigError(f"expected decay and restart_below in [0, 1), got {self.decay} and {self.restart_below}")


@dataclass(frozen=True)
class CodecConfig:
    """A whole codec.

    The frame rate follows from the sample rate and the strides. It is stated all the same, and must agree: strides
    written in another order or number are a common mistake.

    Attributes:
        name: Of the preset.
        sample_rate: Of the mono audio, in Hz.
        frame_rate: Frames of codes a second.
        seanet: Encoder and decoder.
        quantizer: Between the two.
    """

    name: str
    sample_rate: int
    frame_rate: float
    seanet: SEANetConfig = field(default_factory=SEANetConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        """Refuse a frame rate that the strides do not give."""
        if self.sample_rate < 1 or not math.isclose(self.sample_rate / self.hop_length, self.frame_rate):
            raise ConfigError(
                f"codec {self.name}: strides {self.seanet.ratios} make frames of {self.hop_length} samples, "
                f"{self.sample_rate / self.hop_length:g} a second at {self.sample_rate} Hz, but frame_rate is "
                f"{self.frame_rate:g}: correct one of the three"
            )

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return self.seanet.hop_length

    @property
    def bits_per_second(self) -> float:
        """Of the codes, each written with the same number of bits."""
        return self.frame_rate * self.quantizer.codebooks * math.log2(self.quantizer.codebook_size)

    def as_dict(self) -> dict[str, Any]:
        """Return plain, JSON-able values, from which ``parse_config`` makes an equal configuration."""
        values: dict[str, Any] = plain(self)
        return values


def parse_config(values: Mapping[str, Any], source: str = "configuration") -> CodecConfig:
    """Check plain values, as ``CodecConfig.as_dict`` gives them; see ``parse_dataclass``."""
    return parse_dataclass(CodecConfig, values, source)


PUBLISHED = CodecConfig("published", sample_rate=32_000, frame_rate=50)
"""The tokenizer of MusicGen (Copet et al. 2023; audiocraft's ``encodec_large_nq4_s640``): 2.2 kbit/s."""

TINY = CodecConfig(
    "tiny",
    sample_rate=16_000,
    frame_rate=50,
    seanet=SEANetConfig(ratios=(4, 2, 5, 8), dimension=32, filters=8, lstm_layers=1),
    quantizer=QuantizerConfig(codebook_size=64, kmeans_iterations=20),
)
"""For experiments on the embedded data; trains on a CPU."""
