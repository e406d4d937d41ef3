"""Transcription: which notes a clip holds."""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sonido_bench.batches import NoteBatch
from sonido_bench.features.extractor import Extractor
from sonido_bench.metrics.items import TestItems
from sonido_bench.metrics.metric import Metric
from sonido_bench.metrics.notes import NOTE_METRICS, frame_f1, note_scores
from sonido_bench.nn.note_decoding import Thresholds, decode_notes
from sonido_bench.nn.note_targets import note_targets
from sonido_bench.nn.optional_injection import Injection
from sonido_bench.nn.transcriber import NoteMaps, ShallowTranscriber
from sonido_bench.tasks.analysis import AnalysisTask
from sonido_bench.tasks.note_thresholds import choose_thresholds

__all__ = ["TranscriptionTask"]

_EXAMPLES = 4


class TranscriptionTask(AnalysisTask):
    """Notes with onset, offset, pitch and velocity from a shallow network.

    Loss: binary cross-entropy of onset, offset and frame maps, and the squared error of the velocity where a note
    starts. After each validation the decoding thresholds are chosen on the validation clips and stored with the
    weights; the step is chosen by ``val/note_f1``, the mean over clips of the F1 of onsets and pitches at those
    thresholds. The test decodes with the stored thresholds and scores each clip with mir_eval.

    Args:
        front_end: The task's own spectrogram.
        extractor: The frozen model; ``None`` is the baseline.
        width: Hidden channels.
        context: Frames on each side that an output frame sees.
        dropout: Before the heads.
        injection: How features enter.
        injection_gain: How loud they are beside the task's own spectrogram.
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.
        validation_clips: Thresholds and ``val/note_f1`` use at most this many clips, the first: their maps are held
            in memory (about 0.13 MB a clip of 6 s at 31 frames a second).
    """

    network: ClassVar[str] = "shallow"
    target = "notes"
    metrics = (*(Metric(name) for name in NOTE_METRICS), Metric("frame_f1"))
    thresholds: Tensor

    def __init__(
        self,
        front_end: Extractor,
        extractor: Extractor | None = None,
        width: int = 256,
        context: int = 4,
        dropout: float = 0.1,
        injection: Injection = "add",
        injection_gain: float = 1.0,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        max_steps: int | None = None,
        validation_clips: int = 256,
    ) -> None:
        super().__init__(front_end, extractor, learning_rate, weight_decay, max_steps)
        self.model = ShallowTranscriber(
            self.input_dim, width, context, dropout, self.feature_dims, injection, injection_gain
        )
        self.validation_clips = validation_clips
        default = Thresholds()
        self.register_buffer("thresholds", torch.tensor([default.onset, default.offset, default.frame]))

    def forward(self, front: Tensor, features: dict[str, Tensor] | None = None) -> NoteMaps:
        """Return probabilities, each ``(batch, frames, 88)``."""
        return NoteMaps(*(logits.sigmoid() for logits in self.run_model((front, features))))

    def step(self, batch: NoteBatch) -> tuple[Tensor, NoteMaps]:
        """Return the loss and the logits of a batch."""
        front, features = self.inputs(batch)
        logits: NoteMaps = self.run_model((front, features))
        targets = note_targets(batch["notes"], front.shape[1], self.grid.frame_rate, self.grid.first_centre)
        return _loss(logits, targets), logits

    def items(self, batch: NoteBatch, outputs: NoteMaps) -> list[Any]:
        """Keep maps and notes of validation clips, and notes and scores of test clips."""
        maps = NoteMaps(*(logits.sigmoid().cpu() for logits in outputs))
        references = [notes.cpu() for notes in batch["notes"]]
        if self.trainer.testing:
            return self._test_items(maps, references)
        room = self.validation_clips - len(self._gathered)
        halves = [values.half().unbind(0) for values in maps]
        items = zip(references, zip(*halves, strict=True), strict=True)
        return [item if index < room else None for index, item in enumerate(items)]

    def validation_scores(self, items: Mapping[str, Any]) -> dict[str, float]:
        """Choose the thresholds; return the scores that they reach."""
        kept = [item for item in items.values() if item is not None]
        references, maps = zip(*kept, strict=True)
        frames = max(clip[0].shape[0] for clip in maps)
        stacked = NoteMaps(*(_stack(values, frames) for values in zip(*maps, strict=True)))
        chosen, scores = choose_thresholds(stacked, list(references), self.grid)
        self.thresholds.copy_(torch.tensor([chosen.onset, chosen.offset, chosen.frame]))
        return scores

    def summarise(self, items: Mapping[str, Any]) -> TestItems:
        """Return the scores of each clip."""
        scores = {metric.name: [item[0][metric.name] for item in items.values()] for metric in self.metrics}
        examples = {
            name: {"reference": _rounded(reference), "estimate": _rounded(estimate)}
            for name, (_, reference, estimate) in itertools.islice(items.items(), _EXAMPLES)
        }
        return TestItems(list(items), scores=scores, examples=examples)

    def predict_step(self, batch: NoteBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the notes of each clip: ``(notes, 4)``, as in ``NoteBatch``."""
        return dict(zip(batch["clip"], self._decode(self(*self.inputs(batch))), strict=True))

    def _decode(self, maps: NoteMaps) -> list[Tensor]:
        """Read the notes of each clip at the stored thresholds."""
        thresholds = Thresholds(*self.thresholds.tolist())
        return decode_notes(maps, self.grid.frame_rate, self.grid.first_centre, thresholds)

    def _test_items(self, maps: NoteMaps, references: list[Tensor]) -> list[Any]:
        """Score each clip; return scores, true and estimated notes."""
        estimates = [notes.numpy() for notes in self._decode(maps)]
        targets = note_targets(references, maps.frame.shape[1], self.grid.frame_rate, self.grid.first_centre)
        truth, found = (targets.frame > 0.5).numpy(), (maps.frame >= self.thresholds[2].cpu()).numpy()
        items = []
        for index, (reference, estimate) in enumerate(zip(references, estimates, strict=True)):
            scores = note_scores(reference.numpy(), estimate)
            items.append(({**scores, "frame_f1": frame_f1(truth[index], found[index])}, reference.numpy(), estimate))
        return items


def _loss(logits: NoteMaps, targets: NoteMaps) -> Tensor:
    """Cross-entropy of the three binary maps and squared error of the velocities where notes start."""
    entropy = functional.binary_cross_entropy_with_logits
    binary = entropy(logits.onset, targets.onset) + entropy(logits.offset, targets.offset)
    binary = binary + entropy(logits.frame, targets.frame)
    starts = (targets.velocity > 0).float()
    errors = (logits.velocity.sigmoid() - targets.velocity).square() * starts
    return binary + errors.sum() / starts.sum().clamp_min(1)


def _stack(values: tuple[Tensor, ...], frames: int) -> Tensor:
    """Stack ``(frames, 88)`` maps of clips, zeros after the shorter ones."""
    return torch.stack([functional.pad(each.float(), (0, 0, 0, frames - len(each))) for each in values])


def _rounded(notes: np.ndarray[Any, Any]) -> list[list[float]]:
    """Return notes as lists for JSON, times to the millisecond."""
    return [[round(float(value), 3) for value in note] for note in notes]
