"""Separation with Open-Unmix (UMX), by masks on the magnitude spectrogram."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from sonido_bench.batches import AudioBatch, StemBatch
from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.nn.optional_injection import Injection
from sonido_bench.nn.separation import Chunking, wiener_estimates
from sonido_bench.nn.standardise import Standardise
from sonido_bench.nn.umx import UMX
from sonido_bench.tasks.separation import SeparationTask

__all__ = ["UMXTask"]

_CHUNK_SECONDS = 30
"""Of long recordings; the published separator takes a whole song at once, in memory that grows with it."""


class UMXTask(SeparationTask):
    """One UMX network per stem, trained at once; defaults are those of UMXHQ.

    The loss is published: squared error of the magnitudes, a mean over all but the stems, of which it is the sum, so
    that each network learns as it would alone. Training takes frames within the audio, evaluation centred ones.
    Validation gives the estimated magnitudes the phase of the mixture. The input's shift and scale start at the
    statistics of training batches.

    Args:
        extractor: The frozen model; ``None`` is the baseline.
        sources: Names of the stems that are estimated.
        channels: Of the audio.
        sample_rate: Of the audio, in Hz.
        n_fft: Of the spectrogram.
        hop_length: Of the spectrogram, in samples.
        bandwidth_hz: Frequencies above are not seen by the network; the mask covers them all the same.
        width: Hidden channels, even.
        layers: Of the LSTM.
        dropout: Between them.
        injection: How features enter.
        injection_gain: How loud they are beside the spectrogram.
        wiener_iterations: Of expectation-maximisation in test and ``estimate``, for two stems or more and at most two
            channels; the published separator takes 1, which costs more than the networks.
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.
        ema_decay: Of the average of the weights; ``None`` for none.

    Raises:
        ConfigError: If ``wiener_iterations`` does not suit stems and channels.
        ValueError: If a size is out of range.
    """

    network: ClassVar[str] = "umx"
    model: UMX

    def __init__(
        self,
        extractor: Extractor | None = None,
        sources: Sequence[str] = ("vocals", "drums", "bass", "other"),
        channels: int = 2,
        sample_rate: int = 44100,
        n_fft: int = 4096,
        hop_length: int = 1024,
        bandwidth_hz: float = 16000.0,
        width: int = 512,
        layers: int = 3,
        dropout: float = 0.4,
        injection: Injection = "add",
        injection_gain: float = 1.0,
        wiener_iterations: int = 0,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-5,
        max_steps: int | None = None,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__(sources, channels, sample_rate, extractor, learning_rate, weight_decay, max_steps, ema_decay)
        if wiener_iterations < 0 or (wiener_iterations > 0 and (len(self.sources) < 2 or channels > 2)):
            raise ConfigError(
                f"expected wiener_iterations of 0, or above for two stems or more and at most two channels, got "
                f"{wiener_iterations} for {len(self.sources)} and {channels}"
            )
        self.wiener_iterations = wiener_iterations
        self.model = UMX(
            self.sources,
            channels,
            n_fft,
            hop_length,
            sample_rate,
            bandwidth_hz,
            width,
            layers,
            dropout,
            self.feature_dims,
            injection,
            injection_gain,
        )
        self.statistics = Standardise(self.model.stft(centred=False).bins)
        self.average_weights()

    @property
    def chunking(self) -> Chunking:
        """Chunks of half a minute."""
        return Chunking(_CHUNK_SECONDS * self.sample_rate)

    def training_loss(self, batch: StemBatch, references: Tensor) -> Tensor:
        """Return the squared error of the magnitudes."""
        stft = self.model.stft(centred=False)
        mixture = stft(batch["mixture"]).abs()
        features = self.aligned(self.streams(batch), stft.grid, mixture.shape[-1])
        return self._loss(self.model(mixture, features), stft(references).abs())

    def separate(self, batch: StemBatch, references: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared error of the magnitudes, and the estimates."""
        stft, mixture = self.model.stft(centred=True), batch["mixture"]
        spectrum = stft(mixture)
        magnitude = spectrum.abs()
        features = self.aligned(self.streams(batch), stft.grid, spectrum.shape[-1])
        magnitudes = self._umx(magnitude, features).float()
        # One track at a time: memory for a whole batch of spectra of all stems is slow to get.
        loss = torch.stack([self._loss(*pair) for pair in self._spectra(magnitudes, references)]).mean()
        if self.trainer.testing and self.wiener_iterations:
            return loss, wiener_estimates(self._umx, mixture, features, self.wiener_iterations)
        phase = spectrum / magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny)  # 0 where there is nothing to mask
        pairs = zip(magnitudes, phase, strict=True)
        return loss, torch.stack([stft.inverse(found * turn, references.shape[-1]) for found, turn in pairs])

    def _spectra(self, magnitudes: Tensor, references: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield estimated and true magnitudes of each track of a batch, as batches of one."""
        stft = self.model.stft(centred=True)
        for at in range(len(references)):
            yield magnitudes[at : at + 1], stft(references[at : at + 1]).abs()

    @torch.no_grad()
    def estimate(self, audio: Tensor) -> Tensor:
        """Separate ``(1, channels, samples)``, longer than half of ``n_fft``, into ``(1, sources, channels, samples)``.

        Raises:
            ValueError: If the audio is shorter, or the task is in training mode.
        """
        self._check_evaluation()
        batch = AudioBatch(clip=["audio"], seconds=audio.shape[-1] / self.sample_rate, sample_rate=self.sample_rate)
        batch["audio"] = audio
        stft = self.model.stft(centred=True)
        features = self.aligned(self.streams(batch), stft.grid, stft.frames(audio.shape[-1]))
        return wiener_estimates(self._umx, audio, features, self.wiener_iterations)

    @property
    def _umx(self) -> UMX:
        """The network to run."""
        return cast(UMX, self.trained)

    @property
    def has_statistics(self) -> bool:
        """Whether the magnitudes of training batches were taken in."""
        return bool(self.statistics.count > 0)

    def update_statistics(self, batch: Any) -> None:
        """Take the magnitudes of a batch into the statistics."""
        self.statistics.update(self.model.statistics_rows(self.model.stft(centred=False)(batch["mixture"]).abs()))

    def finish_statistics(self) -> None:
        """Start the input's shift and scale at the statistics, those of the first process on all."""
        if self.trainer.world_size > 1:
            for buffer in self.statistics.buffers():
                torch.distributed.broadcast(buffer, src=0)
        self.model.initialise_input(self.statistics)

    @staticmethod
    def _loss(estimates: Tensor, references: Tensor) -> Tensor:
        """Return the squared error of magnitudes ``(batch, sources, ...)``, summed over sources."""
        return functional.mse_loss(estimates.float(), references) * references.shape[1]
