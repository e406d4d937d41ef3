"""Automatic mixing: the stereo mix of a track from its stems."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.batches import AudioBatch, StemBatch
from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.metrics.items import TestItems
from sonido_bench.metrics.metric import Metric
from sonido_bench.metrics.mixing import FRAME, LOUDNESS_SECONDS, MIXING_METRICS, mixing_scores
from sonido_bench.nn.mixing_loss import StereoLoss
from sonido_bench.nn.mixing_network import MixingNetwork
from sonido_bench.nn.separation import Chunking
from sonido_bench.tasks.generative import GenerativeTask, by_track

__all__ = ["STEMS", "MixingLoss", "MixingTask"]

MixingLoss = Literal["squared", "convergence", "channels", "waveform"]
"""``squared`` and ``convergence``: the stereo losses Lb and La of FxNorm-automix, of the channels' sum and difference;
``channels``: La of the channels themselves, for stems that are nearly mono; ``waveform``: mean |target - mix|."""

STEMS = ("vocals", "drums", "bass", "other")

_Mix = tuple[Tensor, Tensor]
"""Target and estimate of a part of a track, each ``(2, samples)``."""
_Scores = dict[str, float]
_STEREO = "stereo_loss"
_CHUNK_SECONDS = 30
"""Of long recordings."""


class MixingTask(GenerativeTask):
    """The mix of a track's stems by a ``MixingNetwork``, which a subclass builds.

    Features are those of the mono downmix of the input stems, at the network's own frames: the mix is what is wanted.

    The step is chosen by ``spectral_mape``, the mean over validation tracks, lower is better. The test adds the other
    errors of ``metrics.mixing`` and ``stereo_loss``, which is Lb of the whole track whatever the training loss. The
    track is the item, in however many clips it comes. A track whose target lacks a score (it is silent or sounds for
    less than 0.4 s, or its channels are equal and so have no panning) is left out of all: that depends on the target
    alone, so that all arms keep the same tracks.

    Args:
        extractor: The frozen model; ``None`` is the baseline.
        stems: Names of the stems, in the order in which the network takes them.
        loss: What training makes small.
        guard_frames: Frames (of 1024 samples) at both ends of a training segment that a stereo loss leaves out,
            since the network lacks context there; 30 as published.
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.
        ema_decay: Of the average of the weights.
        sample_rate: Of the audio, in Hz.

    Raises:
        ConfigError: If stems are not named or one is named twice, or ``guard_frames`` is negative or no use.
    """

    target = "mix"
    metrics = tuple(Metric(name, higher_is_better=False) for name in (*MIXING_METRICS, _STEREO))
    model: MixingNetwork

    def __init__(
        self,
        extractor: Extractor | None = None,
        stems: Sequence[str] = STEMS,
        loss: MixingLoss = "squared",
        guard_frames: int = 0,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        max_steps: int | None = None,
        ema_decay: float | None = None,
        sample_rate: int = 44_100,
    ) -> None:
        super().__init__(extractor, learning_rate, weight_decay, max_steps, ema_decay, sample_rate)
        self.stems = tuple(stems)
        if not self.stems or len(set(self.stems)) < len(self.stems):
            raise ConfigError(f"expected stems of different names, got {list(stems)}")
        if guard_frames < 0 or (guard_frames and loss == "waveform"):
            raise ConfigError(f"guard_frames must be at least 0, and 0 with the waveform loss, got {guard_frames}")
        self.loss = loss
        distance: Literal["squared", "convergence"] = "squared" if loss in ("squared", "waveform") else "convergence"
        self.guarded_loss = StereoLoss(distance, sample_rate, guard_frames=guard_frames)
        self.whole_loss = StereoLoss(distance, sample_rate)
        self.stereo_loss = StereoLoss("squared", sample_rate)

    @property
    def chunking(self) -> Chunking:
        """How ``nn.separation`` is to cut a recording for ``estimate``."""
        return Chunking(_CHUNK_SECONDS * self.sample_rate)

    def forward(self, stems: Tensor, features: dict[str, Tensor] | None = None) -> Tensor:
        """Mix ``(batch, stems, 2, samples)`` to ``(batch, 2, samples)``; features are on the network's frames."""
        mix: Tensor = self.trained(stems, features)
        return mix

    @torch.no_grad()
    def estimate(self, audio: Tensor) -> Tensor:
        """Mix ``(1, stems, 2, samples)`` to ``(1, 2, samples)``.

        Raises:
            ValueError: If the audio has another shape, or the task is in training mode.
        """
        self._check_evaluation()
        if audio.ndim != 4 or audio.shape[1] != len(self.stems):
            raise ValueError(f"expected stems of shape (1, {len(self.stems)}, 2, samples), got {tuple(audio.shape)}")
        batch = AudioBatch(
            clip=["audio"],
            seconds=audio.shape[-1] / self.sample_rate,
            sample_rate=self.sample_rate,
            audio=audio.sum(dim=1),
        )
        return self._mix(audio, batch).float()

    def step(self, batch: StemBatch) -> tuple[Tensor, Tensor]:
        """Return the loss of a ``StemBatch`` and its mixes.

        Raises:
            ConfigError: If the batch has other stems or another sample rate, or training segments are too short.
        """
        found = tuple(batch["stem_names"]), batch["sample_rate"]  # Lightning makes lists of tuples
        if found != (self.stems, self.sample_rate):
            raise ConfigError(
                f"the task mixes the stems {', '.join(self.stems)} at {self.sample_rate} Hz, the data has "
                f"{', '.join(found[0])} at {found[1]} Hz; give task and data the same `stems` and `sample_rate`"
            )
        mix = self._mix(batch["stems"], batch)
        return self._loss(batch["mixture"].float(), mix.float()), mix.detach()

    def items(self, batch: StemBatch, outputs: Tensor) -> list[tuple[str, float, Any]]:
        """Score the clips that are whole tracks; keep the audio of others until their track is complete."""
        if self.trainer.testing:
            heard, wanted = batch["stems"].sum(dim=1), batch["mixture"][:, None]
            self.keep_excerpts(batch, heard, wanted, outputs[:, None], names=("mix",))
        clips = zip(batch["clip"], batch["track"], batch["start"], batch["mixture"], outputs.float(), strict=True)
        kept = []
        for clip, track, start, target, mix in clips:
            part = target.float().cpu(), mix.cpu()
            kept.append((track, start, self._score(part) if clip == track else part))
        return kept

    def validation_scores(self, items: Mapping[str, Any]) -> dict[str, float]:
        """Return the mean over the tracks whose target has a score."""
        tracks = self._scores(items).values()
        return {self.metrics[0].name: _mean([scores[self.metrics[0].name] for scores in tracks])}

    def summarise(self, items: Mapping[str, Any]) -> TestItems:
        """Return the scores of each track that has all of them."""
        tracks = self._scores(items)
        whole = {track: scores for track, scores in tracks.items() if not any(map(math.isnan, scores.values()))}
        if len(whole) < len(tracks):
            lacking = next(track for track in tracks if track not in whole)
            rank_zero_warn(
                f"{len(tracks) - len(whole)} of {len(tracks)} test tracks are left out, {lacking} the first: "
                "their mix is silent, too short or mono, so that errors are not defined"
            )
        scores = {metric.name: [each[metric.name] for each in whole.values()] for metric in self.metrics}
        return TestItems(list(whole), scores=scores, recordings=self.take_excerpts())

    def predict_step(self, batch: StemBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the mix of each clip, ``(2, samples)``."""
        return dict(zip(batch["clip"], self._mix(batch["stems"], batch), strict=True))

    def _mix(self, stems: Tensor, batch: AudioBatch) -> Tensor:
        """Mix stems with the features of a batch."""
        features = self.aligned(self.streams(batch), self.model.grid, self.model.frames(stems.shape[-1]))
        mix: Tensor = self(stems, features)
        return mix

    def _loss(self, target: Tensor, mix: Tensor) -> Tensor:
        """Compare ``(batch, 2, samples)``; without guards outside training, where short clips are padded."""
        if self.loss == "waveform":
            return F.l1_loss(mix, target)
        if self.loss == "channels":
            target, mix = _crossed(target), _crossed(mix)
        loss = self.guarded_loss if self.training else self.whole_loss
        missing = loss.least_samples - target.shape[-1]
        if missing > 0 and self.training:
            raise ConfigError(
                f"expected training segments of at least {loss.least_samples / self.sample_rate:.2f} s for this loss, "
                f"found {target.shape[-1] / self.sample_rate:.2f} s; raise segment_seconds or lower guard_frames"
            )
        compared: Tensor = loss(_lengthened(target, missing), _lengthened(mix, missing))
        return compared

    # --- scores of tracks -------------------------------------------------------------------------------------------

    def _keep(self, batch: Any, stage: str) -> None:
        """Keep what the clips gave; a track is scored when the next one begins, so that only its audio is held."""
        super()._keep(batch, stage)
        if self.trainer.world_size > 1:  # other processes hold the rest of it
            return
        current = batch["track"][-1]
        parts = {clip: item for clip, item in self._gathered.items() if item[0] != current and clip != item[0]}
        for track, mixes in by_track(parts).items():
            self._gathered[track] = track, 0.0, self._score(_joined(mixes))
        for clip in parts:
            del self._gathered[clip]

    def _scores(self, items: Mapping[str, Any]) -> dict[str, _Scores]:
        """Return the scores of each track, of which some may still be audio."""
        tracks: dict[str, list[Any]] = by_track(items)
        return {
            track: kept[0] if isinstance(kept[0], dict) else self._score(_joined(kept))
            for track, kept in tracks.items()
        }

    def _score(self, mix: _Mix) -> _Scores:
        """Return the test's scores of a track, or those of a validation; NaN where the target has none."""
        target, estimate = mix
        testing = self.trainer.testing
        wanted = MIXING_METRICS if testing else MIXING_METRICS[:1]
        scores = dict.fromkeys((*wanted, _STEREO) if testing else wanted, math.nan)
        if target.shape[-1] < max(FRAME, LOUDNESS_SECONDS * self.sample_rate):
            return scores
        errors = mixing_scores(target.numpy(), estimate.numpy(), self.sample_rate, wanted)
        if math.isnan(errors[MIXING_METRICS[0]]):
            return scores
        scores |= {name: errors[name] for name in wanted}
        if testing:
            scores[_STEREO] = float(self.stereo_loss(*(audio[None].to(self.device) for audio in mix)))
        return scores


def _joined(parts: Sequence[_Mix]) -> _Mix:
    """Join the parts of a track."""
    targets, estimates = zip(*parts, strict=True)
    return torch.cat(targets, dim=-1), torch.cat(estimates, dim=-1)


def _lengthened(audio: Tensor, missing: int) -> Tensor:
    """Append zeros, if any are missing."""
    return F.pad(audio, (0, max(0, missing)))


def _crossed(audio: Tensor) -> Tensor:
    """Return half the sum and half the difference of ``(batch, 2, samples)``, whose own are the channels again."""
    left, right = audio.unbind(dim=1)
    return torch.stack([left + right, left - right], dim=1) / 2


def _mean(values: Sequence[float]) -> float:
    """Mean of those that are defined; NaN without any."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
