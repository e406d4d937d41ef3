"""Separation with Hybrid Transformer Demucs (HTDemucs), on spectrogram and waveform at once."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sonido_bench.batches import AudioBatch, StemBatch
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import FrameGrid
from sonido_bench.nn.htdemucs import Branches, HTDemucs
from sonido_bench.nn.separation import Chunking, separate_placed
from sonido_bench.tasks.separation import SeparationTask

__all__ = ["HTDemucsTask"]


class HTDemucsTask(SeparationTask):
    """HTDemucs with the loss as published: the absolute error of the waveforms, a mean over all stems.

    In evaluation a clip that is longer than the segment is cut into overlapping ones (``nn.separation``). Defaults are
    the network's own; the released models have ``dconv_mode=3``, ``bottom_channels=512``, ``segment_seconds=7.8``.

    Args:
        extractor: The frozen model; ``None`` is the baseline.
        sources: Names of the stems that are estimated.
        channels: Of the audio.
        sample_rate: Of the audio, in Hz.
        hidden: Channels of the first layer, at least 8; each further layer has twice as many.
        depth: Layers of encoder and decoder.
        n_fft: Of the spectrogram, whose hop is a quarter of it.
        cac: Spectrogram as complex numbers, in and out; ``False``: magnitudes, that get the mixture's phase.
        dconv_mode: Residual convolutions in the encoder (1), or in the decoder as well (3).
        bottom_channels: Width of the transformer; 0: the channels of the last layer.
        t_layers: Of the transformer, at least 1.
        t_heads: Of the transformer.
        t_dropout: In the transformer.
        segment_seconds: Length of what the network is given in evaluation; that of training segments is best.
        injection_gain: How loud features are beside the network's own input.
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.
        ema_decay: Of the average of the weights; ``None`` for none.

    Raises:
        ValueError: If a size is out of range.
    """

    network: ClassVar[str] = "htdemucs"
    model: HTDemucs

    def __init__(
        self,
        extractor: Extractor | None = None,
        sources: Sequence[str] = ("drums", "bass", "other", "vocals"),
        channels: int = 2,
        sample_rate: int = 44100,
        hidden: int = 48,
        depth: int = 4,
        n_fft: int = 4096,
        cac: bool = True,
        dconv_mode: int = 1,
        bottom_channels: int = 0,
        t_layers: int = 5,
        t_heads: int = 8,
        t_dropout: float = 0.0,
        segment_seconds: float = 10.0,
        injection_gain: float = 1.0,
        learning_rate: float = 3e-4,
        weight_decay: float = 0.0,
        max_steps: int | None = None,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__(sources, channels, sample_rate, extractor, learning_rate, weight_decay, max_steps, ema_decay)
        self.model = HTDemucs(
            self.sources,
            channels,
            hidden,
            depth,
            n_fft,
            cac,
            dconv_mode,
            bottom_channels,
            t_layers,
            t_heads,
            t_dropout,
            sample_rate,
            segment_seconds,
            self.feature_dims,
            injection_gain,
        )
        self.average_weights()

    @property
    def chunking(self) -> Chunking:
        """Chunks of the network's segment, as demucs cuts."""
        return Chunking(self.model.segment_samples)

    def training_loss(self, batch: StemBatch, references: Tensor) -> Tensor:
        """Return the absolute error of the waveforms."""
        return functional.l1_loss(self._run(batch["mixture"], self.streams(batch)).float(), references)

    def separate(self, batch: StemBatch, references: Tensor) -> tuple[Tensor, Tensor]:
        """Return the absolute error of the waveforms, and the estimates."""
        mixture, streams = batch["mixture"], self.streams(batch)
        if mixture.shape[-1] <= self.model.segment_samples:
            estimates = self._run(mixture, streams)
        else:
            items = [{name: stream[at : at + 1] for name, stream in streams.items()} for at in range(len(mixture))]
            pairs = zip(mixture, items, strict=True)
            estimates = torch.stack([self._run_long(audio, item) for audio, item in pairs]).to(mixture.device)
        return functional.l1_loss(estimates.float(), references), estimates

    @torch.no_grad()
    def estimate(self, audio: Tensor) -> Tensor:
        """Separate ``(1, channels, samples)``, at most a segment, into ``(1, sources, channels, samples)``.

        Raises:
            ValueError: If the audio is longer, or the task is in training mode.
        """
        self._check_evaluation()
        batch = AudioBatch(clip=["audio"], seconds=audio.shape[-1] / self.sample_rate, sample_rate=self.sample_rate)
        batch["audio"] = audio
        return self._run(audio, self.streams(batch)).float()

    def _run(self, mixture: Tensor, streams: Mapping[str, Tensor], start: int = 0) -> Tensor:
        """Run the network on audio that begins ``start`` samples after the features do."""
        frames, late = self.model.frames(mixture.shape[-1]), start / self.sample_rate
        grids = [FrameGrid(grid.frame_rate, grid.first_centre + late) for grid in self.model.grids]
        freq, time = (self.aligned(streams, grid, count) for grid, count in zip(grids, frames, strict=True))
        estimates: Tensor = self.trained(mixture, None if freq is None or time is None else Branches(freq, time))
        return estimates

    def _run_long(self, mixture: Tensor, streams: Mapping[str, Tensor]) -> Tensor:
        """Run the network on overlapping segments of ``(channels, samples)``."""
        return separate_placed(
            lambda chunk, start: self._run(chunk, streams, start).float(), mixture.cpu(), self.chunking, mixture.device
        )
