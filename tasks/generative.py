"""What tasks share that give audio: stems in and out, features at the network's own frames, scores by track."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sonido_bench.batches import StemBatch
from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.metrics.items import Recording
from sonido_bench.tasks.base import FeatureTask

__all__ = ["GenerativeTask", "by_track"]

_Item = TypeVar("_Item")
_EXCERPTS = 2
"""Test tracks of which something is kept to hear."""
_EXCERPT_SECONDS = 6


class GenerativeTask(FeatureTask):
    """A network from audio to audio, with or without features; see ``FeatureTask`` for what a subclass writes.

    There is no front end: the network reads ``stems`` or ``mixture`` of a ``StemBatch`` itself, and features come from
    the cache or, online, from the batch's ``audio`` (``streams``), to be brought to each of the network's frame grids
    (``aligned``). The network runs at the trainer's precision; losses are to be taken of ``.float()``.

    A track may come in several clips, on several processes: ``items`` keeps of each clip what can be added up, a pair
    of ``(batch["track"][i], batch["start"][i])`` first (see ``by_track``), and the track is the item that is scored.

    Of the first test tracks a few seconds are kept to hear: ``items`` calls ``keep_excerpts``, ``summarise`` puts what
    ``take_excerpts`` gives into its ``recordings``.

    A subclass further writes ``estimate``, and ends its ``__init__`` with ``self.average_weights()``.

    Args:
        extractor: The frozen model; ``None`` is the baseline.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine to zero, per step.
        weight_decay: AdamW's, on matrices only.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.
        ema_decay: Of the exponential moving average of the weights, per step, in (0, 1); validation, test and
            ``estimate`` then use the average. ``None`` for none.
        sample_rate: Of the audio that the network takes and gives, in Hz.

    Raises:
        ConfigError: If ``ema_decay`` is out of range.
    """

    def __init__(
        self,
        extractor: Extractor | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        max_steps: int | None = None,
        ema_decay: float | None = None,
        sample_rate: int = 44100,
    ) -> None:
        super().__init__(extractor, learning_rate, weight_decay, max_steps)
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ConfigError(f"ema_decay must lie between 0 and 1, or be null, got {ema_decay}")
        self.ema_decay = ema_decay
        self.sample_rate = sample_rate
        self.average: AveragedModel | None = None
        self._excerpts: dict[str, tuple[float, Recording]] = {}

    def average_weights(self) -> None:
        """Make the average of the weights, if one is wanted; called at the end of a subclass's ``__init__``."""
        if self.ema_decay is not None:
            average = get_ema_multi_avg_fn(self.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True).requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        """The network to run: in evaluation the average of the weights, once there is one."""
        if self.training or self.average is None or self.average.n_averaged == 0:
            return self.model
        return self.average.module

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the new weights into their average."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def estimate(self, audio: Tensor) -> Tensor:
        """Run the network as ``predict`` does, on audio at ``sample_rate``; features are extracted from the audio.

        Args:
            audio: In separation a mixture ``(1, channels, samples)``, in mixing stems
                ``(1, stems, channels, samples)``.

        Returns:
            In separation ``(1, sources, channels, samples)``, in mixing ``(1, channels, samples)``.

        Raises:
            ValueError: If the audio has another shape, or the task is in training mode.
        """
        raise NotImplementedError

    # --- something to hear ------------------------------------------------------------------------------------------

    def keep_excerpts(
        self, batch: StemBatch, given: Tensor, references: Tensor, estimates: Tensor, names: Sequence[str]
    ) -> None:
        """Keep a few seconds of the first tracks: of all clips of a track, where the softest reference is loudest.

        Args:
            batch: Of the test.
            given: What the network was given, ``(batch, channels, samples)``.
            references: ``(batch, names, channels, samples)``.
            estimates: Of the same shape.
            names: Of references and estimates.
        """
        samples = _EXCERPT_SECONDS * self.sample_rate
        for place, track in enumerate(batch["track"]):
            if track not in self._excerpts and len(self._excerpts) == _EXCERPTS:
                continue
            audio = (each[place, ..., :samples].float().cpu().numpy() for each in (given, references, estimates))
            heard, wanted, found = audio
            softest = float(np.square(wanted).sum(axis=(1, 2)).min())
            if track not in self._excerpts or softest > self._excerpts[track][0]:
                truth, guess = (dict(zip(names, stems, strict=True)) for stems in (wanted, found))
                self._excerpts[track] = softest, Recording(heard, truth, guess, self.sample_rate)

    def take_excerpts(self) -> dict[str, Recording]:
        """Return what was kept to hear, by track, and forget it."""
        kept, self._excerpts = self._excerpts, {}
        return {track: recording for track, (_, recording) in kept.items()}

    def _finite_step(self, batch: Any, stage: str) -> tuple[Tensor, Any]:
        """Make a step; a mixture that is not finite is named before a network trips over it (demucs asserts)."""
        if not torch.isfinite(batch["mixture"]).all():
            self._explain(batch, stage)
        return super()._finite_step(batch, stage)

    def _check_evaluation(self) -> None:
        """Refuse to estimate while dropout is on and batches are normalised by themselves.

        Raises:
            ValueError: If the task is in training mode.
        """
        if self.training:
            raise ValueError("expected the task in evaluation mode, found it in training; eval() it")

    def named_inputs(self, batch: Any) -> dict[str, Tensor]:
        """Return mixture, stems and features."""
        return {"mixture": batch["mixture"], "stems": batch["stems"], **self.streams(batch)}


def by_track(items: Mapping[str, tuple[str, float, _Item]]) -> dict[str, list[_Item]]:
    """Return what was kept of each track's clips, in the order of time; tracks by name.

    Args:
        items: Of each clip: the name of its track, where it starts in it in seconds, and what was kept.
    """
    tracks: dict[str, list[_Item]] = {}
    for track, _, item in sorted(items.values(), key=lambda each: each[:2]):
        tracks.setdefault(track, []).append(item)
    return tracks
