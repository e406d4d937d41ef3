"""Separation: the stems of a mixture. What UMX and HTDemucs share: references, scores by track, excerpts to hear."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sonido_bench.batches import StemBatch
from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.metrics.items import TestItems
from sonido_bench.metrics.metric import Metric
from sonido_bench.metrics.separation import over_tracks
from sonido_bench.metrics.track_sdr import Energies
from sonido_bench.nn.separation import Chunking
from sonido_bench.tasks.generative import GenerativeTask, by_track

__all__ = ["Separated", "SeparationTask"]


_NOTHING_LEFT = 1e-6
"""A track in which all but one stem together are fainter than this share of it, -60 dB, is not a mixture."""


class _Part(NamedTuple):
    """What is kept of a part of a track: ``rest`` is the energy of the mixture without each source, ``(sources,)``."""

    energies: Energies
    rest: np.ndarray[Any, Any]


class Separated(NamedTuple):
    """What a network made of a batch, ``(batch, sources, channels, samples)`` each, float32."""

    references: Tensor
    estimates: Tensor


class SeparationTask(GenerativeTask):
    """The stems of a mixture.

    The step is chosen by ``val/usdr``: uSDR over whole tracks, mean over the stems that sound, mean over tracks. Unlike
    the loss it is the same quantity for both networks and the one that is tested, and does not hang on the loudest
    tracks; to choose as the papers did, monitor ``val/loss``. The test gives uSDR and, by the same means, cSDR (the
    median of museval's windows of a second; ``metrics.track_sdr``) of each track. Tracks in which no stem sounds are
    left out, and so are those in which one sounds alone: the mixture would solve them, at more decibels than all others
    together have. What the literature gives, per stem, is logged beside: ``test/csdr_median/<stem>``,
    ``test/csdr_mean/<stem>`` and ``test/usdr_mean/<stem>``, over tracks.

    A subclass writes ``training_loss``, ``separate`` and ``estimate``.

    Args:
        sources: Names of the stems that are estimated, in order; the data may have more.
        channels: Of the audio.
        sample_rate: Of the audio, in Hz.
        extractor: The frozen model; ``None`` is the baseline.
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.
        ema_decay: Of the average of the weights; ``None`` for none.
    """

    target = "stems"
    metrics = (Metric("usdr"), Metric("csdr"))

    def __init__(
        self,
        sources: Sequence[str],
        channels: int,
        sample_rate: int,
        extractor: Extractor | None,
        learning_rate: float,
        weight_decay: float,
        max_steps: int | None,
        ema_decay: float | None,
    ) -> None:
        super().__init__(extractor, learning_rate, weight_decay, max_steps, ema_decay, sample_rate)
        self.sources = tuple(sources)
        self.channels = channels

    @property
    def chunking(self) -> Chunking:
        """How ``nn.separation`` is to cut a recording for ``estimate``."""
        raise NotImplementedError

    def training_loss(self, batch: StemBatch, references: Tensor) -> Tensor:
        """Return the loss as published of a training batch.

        Args:
            batch: The batch.
            references: ``(batch, sources, channels, samples)``.
        """
        raise NotImplementedError

    def separate(self, batch: StemBatch, references: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of an evaluation batch and the estimates, ``(batch, sources, channels, samples)``."""
        raise NotImplementedError

    def step(self, batch: StemBatch) -> tuple[Tensor, Separated | None]:
        """Return the loss of a batch and, in evaluation, references and estimates."""
        references = self._references(batch)
        if self.training:
            return self.training_loss(batch, references), None
        loss, estimates = self.separate(batch, references)
        return loss, Separated(references, estimates.float())

    def items(self, batch: StemBatch, outputs: Separated) -> list[tuple[str, float, _Part]]:
        """Keep the energies that the scores follow from; in the test, something to hear of the first tracks."""
        if self.trainer.testing:
            self.keep_excerpts(batch, batch["mixture"], *outputs, names=self.sources)
        rests = (batch["mixture"][:, None] - outputs.references).double().square().sum(dim=(2, 3)).cpu().numpy()
        audio = (each.cpu().numpy() for each in outputs)
        measured = [
            _Part(Energies.measure(references, estimates, self.sample_rate), rest)
            for references, estimates, rest in zip(*audio, rests, strict=True)
        ]
        return list(zip(batch["track"], batch["start"], measured, strict=True))

    def validation_scores(self, items: Mapping[str, Any]) -> dict[str, float]:
        """Score the validation set: ``usdr``."""
        return {"usdr": _mean_of_finite([_mean_of_finite(track.usdr()) for track in _mixtures(items).values()])}

    def summarise(self, items: Mapping[str, Any]) -> TestItems:
        """Return the scores of each track; log those of each stem."""
        tracks = _mixtures(items)
        usdr = {name: energies.usdr() for name, energies in tracks.items()}
        csdr = {name: energies.csdr() for name, energies in tracks.items()}
        self._log_stems([*usdr.values()], [*csdr.values()])
        # Which tracks have scores follows from the references alone: all runs are tested on the same.
        names = [name for name in tracks if np.isfinite(csdr[name]).any()]
        scores = {"usdr": usdr, "csdr": csdr}
        return TestItems(
            names,
            scores={metric: [_mean_of_finite(values[name]) for name in names] for metric, values in scores.items()},
            recordings=self.take_excerpts(),
        )

    def _references(self, batch: StemBatch) -> Tensor:
        """Return the stems that are estimated, in their order.

        Raises:
            ConfigError: If the data are of another rate, have other channels, or lack one of the stems.
        """
        names, found = batch["stem_names"], (batch["sample_rate"], batch["mixture"].shape[1])
        if found != (self.sample_rate, self.channels):
            raise ConfigError(
                f"the network takes {self.channels} channels at {self.sample_rate} Hz, the data have {found[1]} at "
                f"{found[0]} Hz; set sample_rate and channels of task or data"
            )
        if missing := [source for source in self.sources if source not in names]:
            raise ConfigError(
                f"the network estimates {', '.join(self.sources)}; the data have no {missing[0]!r}, but "
                f"{', '.join(names)}: set `sources` of the task"
            )
        return batch["stems"][:, [names.index(source) for source in self.sources]]

    def _log_stems(self, usdr: Sequence[np.ndarray[Any, Any]], csdr: Sequence[np.ndarray[Any, Any]]) -> None:
        """Log the scores of each stem over tracks."""
        if not usdr:
            return
        frames, whole = over_tracks(np.stack(csdr)), over_tracks(np.stack(usdr))
        kinds = {"csdr_median": frames.median, "csdr_mean": frames.mean, "usdr_mean": whole.mean}
        values = {
            f"test/{kind}/{source}": float(score)
            for kind, scores in kinds.items()
            for source, score in zip(self.sources, scores, strict=True)
            if math.isfinite(score)
        }
        self.log_dict(values, sync_dist=True, batch_size=1)


def _mixtures(items: Mapping[str, Any]) -> dict[str, Energies]:
    """Return the energies of the tracks in which there is something to separate; the references decide."""
    tracks = {}
    for name, parts in by_track(items).items():
        joined, rest = Energies.join([part.energies for part in parts]), sum(part.rest for part in parts)
        signal = joined.signal.sum(axis=1)
        if (rest > _NOTHING_LEFT * signal)[signal > 0].all():
            tracks[name] = joined
    return tracks


def _mean_of_finite(values: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """Return the mean of the finite values; NaN if there is none."""
    finite = [float(value) for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
