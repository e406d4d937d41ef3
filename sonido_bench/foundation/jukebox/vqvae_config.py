"""What Jukebox's VQ-VAE is made of, as data."""

import math
from dataclasses import dataclass, fields

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox.loss import STFT

__all__ = ["PUBLISHED", "TINY", "VQVAEConfig"]

_METRIC_STFT = STFT(2048, 256, 1536)


@dataclass(frozen=True)
class VQVAEConfig:
    """The autoencoders; the defaults are the published ones (OpenAI's hparams.py, ``vqvae``). Level 0 is the finest.

    Attributes:
        sample_rate: Of the mono audio, in Hz.
        downs: Per level, how often it divides the rate of the level below.
        strides: Per level, by what, each time; even.
        width: Channels, times the level's multiplier.
        depth: Residual blocks at each rate, times the level's multiplier.
        multipliers: Per level, of width and depth of its autoencoder.
        dilation_growth: Of the dilation from block to block.
        dilation_cycle: Blocks after which the dilation starts again at 1; ``None``: never.
        reverse_decoder_dilation: Whether decoders start with the largest dilation.
        codebook_size: Codes of a level; ``None``: no quantisation, for comparison.
        code_dim: Width of a code.
        decay: Of the codebooks' moving averages, per step.
        restart: Whether codes out of use restart on random latents.
        restart_below: Moving average of the count in a batch (of all processes) under which a code restarts.
        restart_relative: Whether that is in units of the count that each code would have if all were used alike:
            independent of batch size and level, unlike the published threshold.
        restart_keeps_sums: Whether a restarted code keeps its old sum, as published.
        commit: Weight of the latents' squared distances to their codes.
        l2_weight: Of the squared error.
        linf_weight: Of the largest squared errors.
        linf_k: How many of them, of each item.
        spectral_weight: Of the spectral loss.
        stfts: Resolutions of the spectral loss.
        metric_stft: For the spectral convergence, and for what the spectral loss is divided by.
        hierarchical: One autoencoder with codes at all levels, decoded together (as VQ-VAE-2), for comparison: it is
            what the paper gave up because the coarse codes went unused. Its multiplier is the largest.
    """

    sample_rate: int = 44_100
    downs: tuple[int, ...] = (3, 2, 2)
    strides: tuple[int, ...] = (2, 2, 2)
    width: int = 32
    depth: int = 4
    multipliers: tuple[int, ...] = (2, 1, 1)
    dilation_growth: int = 3
    dilation_cycle: int | None = None
    reverse_decoder_dilation: bool = True
    codebook_size: int | None = 2048
    code_dim: int = 64
    decay: float = 0.99
    restart: bool = True
    restart_below: float = 1.0
    restart_relative: bool = False
    restart_keeps_sums: bool = True
    commit: float = 0.02
    l2_weight: float = 1.0
    linf_weight: float = 0.02
    linf_k: int = 2048
    spectral_weight: float = 1.0
    stfts: tuple[STFT, ...] = (STFT(2048, 240, 1200), STFT(1024, 120, 600), STFT(512, 50, 240))
    metric_stft: STFT = _METRIC_STFT
    hierarchical: bool = False

    def __post_init__(self) -> None:
        """Refuse what builds or trains no model."""
        self._check_levels()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and not field.name.endswith(("weight", "commit"))):
                raise ConfigError(f"vqvae: {field.name} must be a number above 0, got {value}")
        if self.decay >= 1:
            raise ConfigError(f"vqvae: decay must be below 1, got {self.decay}")
        if self.restart and self.restart_relative and self.restart_below >= 1:
            raise ConfigError(
                f"vqvae: a relative restart_below must be below 1, the mean count, got {self.restart_below}; try 0.03"
            )
        if self.hierarchical and self.codebook_size is None:
            raise ConfigError("vqvae: hierarchical levels are told apart by their codes; give a codebook_size")
        for stft in (*self.stfts, self.metric_stft):
            if len(stft) != 3 or min(stft) < 1 or stft[2] > stft[0]:
                raise ConfigError(f"vqvae: an STFT is (n_fft, hop, window of at most n_fft), all above 0, got {stft}")
        if self.spectral_weight and not self.stfts:
            raise ConfigError("vqvae: spectral_weight needs stfts; give some or set it to 0")

    def _check_levels(self) -> None:
        per_level = {"downs": self.downs, "strides": self.strides, "multipliers": self.multipliers}
        if not self.downs or len({len(values) for values in per_level.values()}) > 1:
            raise ConfigError(f"vqvae: expected one value per level, and as many of each, got {per_level}")
        if min(min(values) for values in per_level.values()) < 1 or any(stride % 2 for stride in self.strides):
            raise ConfigError(f"vqvae: downs and multipliers must be at least 1, strides even, got {per_level}")

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.downs)

    def hop(self, level: int) -> int:
        """Return the samples of one frame of a level."""
        hop = 1
        for stride, downs in zip(self.strides[: level + 1], self.downs, strict=False):
            hop *= stride**downs
        return hop


PUBLISHED = VQVAEConfig()
TINY = VQVAEConfig(
    sample_rate=16_000,
    width=16,
    depth=2,
    codebook_size=256,
    code_dim=32,
    restart_below=0.03,
    restart_relative=True,
    restart_keeps_sums=False,
    linf_k=128,
    stfts=(STFT(1024, 120, 600), STFT(512, 60, 300), STFT(256, 25, 120)),
    metric_stft=STFT(1024, 128, 768),
)  # for rendered music, on a processor; halve sample_rate for half the work
