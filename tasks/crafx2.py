"""Mixing with CRAFx2, FxNorm-automix's network."""

from collections.abc import Sequence
from typing import ClassVar

from sonido_bench.features.extractor import Extractor
from sonido_bench.nn.crafx2 import CRAFx2
from sonido_bench.nn.optional_injection import Injection
from sonido_bench.tasks.mixing import STEMS, MixingLoss, MixingTask

__all__ = ["CRAFx2Task"]


class CRAFx2Task(MixingTask):
    """Mixing by CRAFx2, FxNorm-automix's network; defaults are the published sizes.

    Args:
        extractor: The frozen model; ``None`` is the baseline.
        stems: Names of the stems, in order.
        encoder_width: Channels at the full rate, even.
        encoder_kernel: Taps of the first convolution; those that smooth magnitudes are twice as long.
        width: Channels of the temporal network.
        hidden: Channels within its blocks.
        skip_width: Channels that its blocks add to its output.
        blocks: Of a repeat, with dilations 1, 2, 4, ...
        repeats: Of these blocks.
        recurrent_layers: Of the LSTM.
        dropout: Between them.
        expansion: Of the excitation gates' hidden layer.
        start_from_sum: Whether the untrained network gives the plain sum of the stems; not so as published.
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

    network: ClassVar[str] = "crafx2"

    def __init__(
        self,
        extractor: Extractor | None = None,
        stems: Sequence[str] = STEMS,
        encoder_width: int = 128,
        encoder_kernel: int = 64,
        width: int = 256,
        hidden: int = 128,
        skip_width: int = 64,
        blocks: int = 6,
        repeats: int = 4,
        recurrent_layers: int = 3,
        dropout: float = 0.1,
        expansion: int = 16,
        start_from_sum: bool = False,
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
        self.model = CRAFx2(
            len(self.stems),
            encoder_width,
            encoder_kernel,
            width=width,
            hidden=hidden,
            skip_width=skip_width,
            blocks=blocks,
            repeats=repeats,
            recurrent_layers=recurrent_layers,
            dropout=dropout,
            expansion=expansion,
            start_from_sum=start_from_sum,
            sample_rate=sample_rate,
            feature_dims=self.feature_dims,
            injection=injection,
            injection_gain=injection_gain,
        )
        self.average_weights()
