"""What tasks share that read something off audio: a spectrogram of their own, joined by the features on its frames."""

from typing import Any

import torch
from torch import Tensor

from sonido_bench.batches import AudioBatch
from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import FrameGrid
from sonido_bench.nn.standardise import Network
from sonido_bench.tasks.base import FeatureTask, checked_streams

__all__ = ["AnalysisTask", "Inputs"]

Inputs = tuple[Tensor, dict[str, Tensor] | None]
"""Front end ``(batch, frames, dim)`` and every feature stream on its frames, or ``None`` in the baseline."""


class AnalysisTask(FeatureTask):
    """A task model on a frozen front end; see ``FeatureTask`` for what a subclass writes.

    Args:
        front_end: The task's own spectrogram: an extractor with one stream.
        extractor: The frozen model; ``None`` is the baseline.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine to zero, per step.
        weight_decay: AdamW's, on matrices only.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.

    Raises:
        ConfigError: If the front end does not have exactly one stream.
    """

    model: Network

    def __init__(
        self,
        front_end: Extractor,
        extractor: Extractor | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(extractor, learning_rate, weight_decay, max_steps)
        if len(front_end.spec.streams) != 1:
            raise ConfigError(f"front_end needs one stream, {type(front_end).__name__} has {[*front_end.spec.streams]}")
        self.front_end = front_end

    @property
    def grid(self) -> FrameGrid:
        """Where the frames of the front end, and so of the model, lie in time."""
        return self.front_end.spec.grid(self._stream)

    @property
    def input_dim(self) -> int:
        """Channels of a frame of the front end."""
        return self.front_end.spec.streams[self._stream].dim

    @property
    def frozen(self) -> dict[str, Extractor | None]:
        """Front end and extractor."""
        return {"front_end": self.front_end, **super().frozen}

    @property
    def _stream(self) -> str:
        """Name of the front end's only stream."""
        return next(iter(self.front_end.spec.streams))

    def inputs(self, batch: AudioBatch) -> Inputs:
        """Return the front end and the features of a batch on the front end's frames.

        Args:
            batch: With ``front_end`` (and ``features``) from the cache, or with ``audio`` to extract them from.

        Raises:
            ConfigError: If the batch was made for another arm: streams are missing, unexpected or of another width.
        """
        front = self.front(batch)
        return front, self.aligned(self.streams(batch), self.grid, front.shape[1])

    def front(self, batch: AudioBatch) -> Tensor:
        """Return the front end of a batch, ``(batch, frames, dim)``; raises as ``inputs``."""
        if "audio" in batch:
            return self.extract(self.front_end, batch)[self._stream]
        return checked_streams(batch.get("front_end", {}), self.front_end.spec.dims, "front_end")[self._stream]

    def run_model(self, inputs: Inputs) -> Any:
        """Run the network in float32 whatever the trainer's precision: ranks of scores and peaks need the digits."""
        with torch.autocast(self.device.type, enabled=False):
            return self.model(*inputs)

    @property
    def has_statistics(self) -> bool:
        """Whether mean and deviation of the front end are known."""
        return bool(self.model.normalise.count > 0)

    def update_statistics(self, batch: Any) -> None:
        """Take a batch of training data into the statistics of the input."""
        self.model.normalise.update(self.front(batch))

    def named_inputs(self, batch: Any) -> dict[str, Tensor]:
        """Return front end, target and features."""
        front, features = self.inputs(batch)
        return {"front end": front, "target": batch.get("target", front), **(features or {})}
