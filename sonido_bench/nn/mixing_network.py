"""What all mixing networks share: stems in, stereo mix out, any length, features at one place."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.features.spec import FrameGrid
from sonido_bench.nn.optional_injection import Injection, OptionalInjection

__all__ = ["MixingNetwork"]


class MixingNetwork(nn.Module):
    """Turns the stems of a track into its stereo mix.

    Features are those of the mono downmix of the input stems: the mix itself is what is wanted.

    Attributes:
        hop_length: Samples from one hidden frame that takes features to the next.
        grid: Where these hidden frames lie; streams are to be aligned to it.

    Args:
        stems: Number of stereo stems.
        sample_rate: Of the audio, in Hz.
        hop_length: Samples of a hidden frame.
        first_centre: Centre of hidden frame 0, in samples.
        width: Channels of the hidden frames.
        feature_dims: Width of each feature stream; ``None`` is the network without features.
        injection: How features enter; ``add`` starts as the network without them, bit for bit.
        injection_gain: How loud they are beside the network's own input.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        stems: int,
        sample_rate: int,
        hop_length: int,
        first_centre: float,
        width: int,
        feature_dims: Mapping[str, int] | None,
        injection: Injection,
        injection_gain: float,
    ) -> None:
        super().__init__()
        if min(stems, sample_rate, hop_length, width) < 1:
            raise ValueError(
                "expected at least 1 stem, Hz, sample a frame and channel, got "
                f"{stems}, {sample_rate}, {hop_length} and {width}"
            )
        self.stems = stems
        self.hop_length = hop_length
        self.grid = FrameGrid(sample_rate / hop_length, first_centre / sample_rate)
        self.inject = OptionalInjection(feature_dims, width, injection, injection_gain)

    def frames(self, samples: int) -> int:
        """Return the number of hidden frames for so many samples: every hop that was begun gives one."""
        return -(-samples // self.hop_length)

    def forward(self, stems: Tensor, features: dict[str, Tensor] | None = None) -> Tensor:
        """Mix.

        Args:
            stems: ``(batch, stems, 2, samples)`` in [-1, 1], always in the same order; at least one sample.
            features: Every stream of ``feature_dims`` on the frames of ``grid``, ``(batch, frames(samples), dim)``.

        Returns:
            ``(batch, 2, samples)``.

        Raises:
            ValueError: If the stems have another shape, or features are given to a network without, or missing in
                one with, or lie on other frames.
        """
        samples = stems.shape[-1]
        if stems.ndim != 4 or stems.shape[1:3] != (self.stems, 2) or samples == 0:
            raise ValueError(
                f"expected stems of shape (batch, {self.stems}, 2, samples) with samples, got {tuple(stems.shape)}; "
                "repeat the channel of mono stems"
            )
        return self._mix(stems.flatten(1, 2), features)[..., :samples]

    @abstractmethod
    def _mix(self, inputs: Tensor, features: dict[str, Tensor] | None) -> Tensor:
        """Mix ``(batch, 2 * stems, samples)`` to ``(batch, 2, samples or more)``; what is more is cut off."""

    def _fill(self, inputs: Tensor) -> Tensor:
        """Append zeros to ``(batch, channels, samples)`` up to whole hidden frames."""
        return F.pad(inputs, (0, -inputs.shape[-1] % self.hop_length))

    def _inject(self, hidden: Tensor, features: dict[str, Tensor] | None) -> Tensor:
        """Inject into ``(batch, width, frames)``."""
        injected: Tensor = self.inject(hidden.transpose(1, 2), features).transpose(1, 2)
        # In another memory layout the layers that follow might round differently than the baseline's.
        return injected.contiguous()
