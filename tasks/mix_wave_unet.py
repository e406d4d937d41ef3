"""Mixing with Wave-U-Nets: the Mix-Wave-U-Net, and the form that FxNorm-automix compares itself with."""

from collections.abc import Sequence
from typing import ClassVar

from sonido_bench.features.extractor import Extractor
from sonido_bench.nn.mix_wave_unet import FxNormWaveUNet, MixWaveUNet
from sonido_bench.nn.optional_injection import Injection
from sonido_bench.tasks.mixing import STEMS, MixingLoss, MixingTask

__all__ = ["FxNormWaveUNetTask", "MixWaveUNetTask"]


class MixWaveUNetTask(MixingTask):
    """Mixing by the Mix-Wave-U-Net; defaults are the published sizes.

    Args:
        extractor: The frozen model; ``None`` is the baseline.
        stems: Names of the stems, in order.
        layers: Levels, each of which halves the rate.
        growth: Channels that each level adds.
        kernel_size: Of the levels' convolutions, odd.
        output_kernel: Of the last convolution, odd.
        start_from_sum: Whether the untrained network gives the plain sum of the stems; not so as published.
        input_scale: What the stems are multiplied by, and the mix divided by; 1 as published.
        injection: How features enter.
        injection_gain: How loud they are beside the network's own input.
        loss: What training makes small.
        guard_frames: See ``MixingTask``.
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.
        ema_decay: Of the average of the weights.
        sample_rate: Of the audio, in Hz.

    Raises:
        ConfigError: See ``MixingTask``.
        ValueError: If a size is out of range.
    """

    network: ClassVar[str] = "mix-wave-unet"

    def __init__(
        self,
        extractor: Extractor | None = None,
        stems: Sequence[str] = STEMS,
        layers: int = 12,
        growth: int = 24,
        kernel_size: int = 13,
        output_kernel: int = 5,
        start_from_sum: bool = False,
        input_scale: float = 1.0,
        injection: Injection = "add",
        injection_gain: float = 1.0,
        loss: MixingLoss = "squared",
        guard_frames: int = 0,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        max_steps: int | None = None,
        ema_decay: float | None = None,
        sample_rate: int = 44_100,
    ) -> None:
        super().__init__(
            extractor, stems, loss, guard_frames, learning_rate, weight_decay, max_steps, ema_decay, sample_rate
        )
        self.model = MixWaveUNet(
            len(self.stems),
            layers,
            growth,
            kernel_size,
            output_kernel,
            start_from_sum=start_from_sum,
            input_scale=input_scale,
            sample_rate=sample_rate,
            feature_dims=self.feature_dims,
            injection=injection,
            injection_gain=injection_gain,
        )
        self.average_weights()


class FxNormWaveUNetTask(MixingTask):
    """Mixing by the Wave-U-Net that FxNorm-automix compares itself with; defaults are the published sizes.

    Args:
        extractor: The frozen model; ``None`` is the baseline.
        stems: Names of the stems, in order.
        widths: Channels of each level, multiples of 8.
        kernel_size: Of its convolutions, odd.
        feature_hop: Samples of a frame of features.
        injection: How features enter.
        injection_gain: How loud they are beside the network's own input.
        loss: What training makes small.
        guard_frames: See ``MixingTask``.
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.
        ema_decay: Of the average of the weights.
        sample_rate: Of the audio, in Hz.

    Raises:
        ConfigError: See ``MixingTask``.
        ValueError: If a size is out of range.
    """

    network: ClassVar[str] = "fxnorm-wave-unet"

    def __init__(
        self,
        extractor: Extractor | None = None,
        stems: Sequence[str] = STEMS,
        widths: Sequence[int] = (24, 48, 96, 192, 384),
        kernel_size: int = 5,
        feature_hop: int = 1024,
        injection: Injection = "add",
        injection_gain: float = 1.0,
        loss: MixingLoss = "squared",
        guard_frames: int = 0,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        max_steps: int | None = None,
        ema_decay: float | None = None,
        sample_rate: int = 44_100,
    ) -> None:
        super().__init__(
            extractor, stems, loss, guard_frames, learning_rate, weight_decay, max_steps, ema_decay, sample_rate
        )
        self.model = FxNormWaveUNet(
            len(self.stems),
            widths,
            kernel_size,
            feature_hop,
            sample_rate=sample_rate,
            feature_dims=self.feature_dims,
            injection=injection,
            injection_gain=injection_gain,
        )
        self.average_weights()
