"""What all task models share: a frozen extractor, aligned features, checkpoints without it, set-level scores."""

import itertools
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from sonido_bench.audio import resample, to_mono
from sonido_bench.batches import AudioBatch
from sonido_bench.errors import ConfigError, DataError, SonidoError
from sonido_bench.features.alignment import align
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import FrameGrid
from sonido_bench.metrics.corpus import CORPUS_SCORES
from sonido_bench.metrics.items import TestItems
from sonido_bench.metrics.metric import Metric

__all__ = ["FeatureTask", "checked_streams"]

_STATISTICS_BATCHES = 64
"""Batches of training data from which the input's mean and deviation are taken."""
_WARM_UP = 0.05
"""Share of the steps over which the learning rate rises."""


class FeatureTask(pl.LightningModule):
    """A task model with the features of a frozen extractor or, as its own baseline, without.

    A task that reads something off audio is an ``AnalysisTask``, one that gives audio a ``GenerativeTask``; a subclass
    of these builds ``self.model``, sets ``metrics``, and writes ``step``, ``items``, ``validation_scores``,
    ``summarise`` and ``named_inputs``. Scores are those of a whole set: what each clip gave is gathered, over
    processes too, and scored once.

    Args:
        extractor: The frozen model; ``None`` is the baseline.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine to zero, per step.
        weight_decay: AdamW's, on matrices only.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.

    Attributes:
        metrics: The scores of the test set, the primary one first.
        test_items: Filled by the test.
        values: Test score of each metric, filled by the test.
    """

    network: ClassVar[str]
    target: str
    metrics: tuple[Metric, ...]
    model: nn.Module

    def __init__(
        self,
        extractor: Extractor | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        max_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_steps = max_steps
        self.test_items = TestItems([])
        self.values: dict[str, float] = {}
        self._gathered: dict[str, Any] = {}
        self._losses: dict[str, list[Tensor]] = {"train": [], "val": [], "test": []}

    @property
    def monitor(self) -> str:
        """The score by which the best step is chosen: the primary metric on the whole validation set."""
        return f"val/{self.metrics[0].name}"

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether ``monitor`` is to be as low or as high as possible."""
        return "max" if self.metrics[0].higher_is_better else "min"

    @property
    def feature_dims(self) -> dict[str, int] | None:
        """Width of each feature stream; ``None`` in the baseline."""
        return None if self.extractor is None else self.extractor.spec.dims

    @property
    def frozen(self) -> dict[str, Extractor | None]:
        """The frozen models by the names of their attributes, which are also those of their streams in a batch."""
        return {"extractor": self.extractor}

    # --- features ---------------------------------------------------------------------------------------------------

    def streams(self, batch: AudioBatch) -> dict[str, Tensor]:
        """Return the features of a batch at their own frame rates, from the cache or extracted; none in the baseline.

        Args:
            batch: With ``audio`` to extract them from, or with ``features`` from the cache.

        Raises:
            ConfigError: If the batch was made for another arm: streams are missing, unexpected or of another width.
        """
        if "audio" in batch:
            return {} if self.extractor is None else self.extract(self.extractor, batch)
        return checked_streams(batch.get("features", {}), self.feature_dims or {}, "features")

    def aligned(self, streams: Mapping[str, Tensor], grid: FrameGrid, frames: int) -> dict[str, Tensor] | None:
        """Bring what ``streams`` gave to the frames of a network, ``(batch, frames, dim)``; ``None`` in the baseline.

        Args:
            streams: Features at their own frame rates.
            grid: Where the network's frames lie.
            frames: How many it has.
        """
        if self.extractor is None:
            return None
        spec = self.extractor.spec
        return {name: align(stream, spec.grid(name), grid, frames) for name, stream in streams.items()}

    @staticmethod
    def extract(extractor: Extractor, batch: AudioBatch) -> dict[str, Tensor]:
        """Extract the streams of a batch's mono mix."""
        mono = to_mono(batch["audio"])
        return extractor.extract(resample(mono, batch["sample_rate"], extractor.spec.sample_rate))

    # --- what a subclass writes -------------------------------------------------------------------------------------

    def step(self, batch: Any) -> tuple[Tensor, Any]:
        """Return the loss of a batch and what ``items`` needs."""
        raise NotImplementedError

    def items(self, batch: Any, outputs: Any) -> list[Any]:
        """Return what is kept of each clip until the end of the set; tensors on the CPU."""
        raise NotImplementedError

    def validation_scores(self, items: Mapping[str, Any]) -> dict[str, float]:
        """Score the whole validation set; the primary metric is among the scores."""
        raise NotImplementedError

    def summarise(self, items: Mapping[str, Any]) -> TestItems:
        """Turn what was kept of the test set into items."""
        raise NotImplementedError

    def named_inputs(self, batch: Any) -> dict[str, Tensor]:
        """Return all that the loss depends on, each with the batch first, for the error that names a broken clip."""
        raise NotImplementedError

    @property
    def has_statistics(self) -> bool:
        """Whether the statistics of the training set are known, or there are none."""
        return True

    def update_statistics(self, batch: Any) -> None:
        """Take a batch of training data into the statistics of the network."""

    def finish_statistics(self) -> None:
        """Put the statistics to use, once all batches were taken in."""

    # --- training, validation, test ---------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Take the statistics of the input from the training set, unless a checkpoint brought them."""
        if self.has_statistics:
            return
        loader: Any = self.trainer.train_dataloader
        for batch in itertools.islice(loader, _STATISTICS_BATCHES):
            self.update_statistics(self.trainer.strategy.batch_to_device(batch))
        self.finish_statistics()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self._finite_step(batch, "train")[0]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Keep what the clips of a batch gave."""
        self._keep(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Keep what the clips of a batch gave."""
        self._keep(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Score the validation set.

        Raises:
            DataError: If the primary metric is not defined on it.
        """
        items = self._take()
        validation, training = self._mean_loss("val"), self._mean_loss("train")
        if self.trainer.sanity_checking:
            return
        scores = {f"val/{name}": value for name, value in self.validation_scores(items).items()}
        if not math.isfinite(scores[self.monitor]) and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise DataError(f"{self.monitor} is not defined on these {len(items)} validation clips; use more clips")
        losses = {"val/loss": validation, "train/loss": training}
        defined = {name: value for name, value in {**losses, **scores}.items() if value is not None}
        self.log_dict(defined, sync_dist=True, batch_size=1)

    def on_test_epoch_end(self) -> None:
        """Score the test set: fills ``test_items`` and ``values``."""
        self.test_items = self.summarise(self._take())
        self.values = {metric.name: _score(metric, self.test_items) for metric in self.metrics}
        self._losses["test"].clear()
        self.log_dict({f"test/{name}": value for name, value in self.values.items()}, sync_dist=True, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and cosine, per step."""
        trained = list(self.model.parameters())
        groups = [
            {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        total = self.max_steps or int(self.trainer.estimated_stepping_batches)
        warm_up = max(1, round(_WARM_UP * total))

        def rate(step: int) -> float:
            """Share of the peak learning rate."""
            if step < warm_up:
                return (step + 1) / warm_up
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, total - warm_up))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _finite_step(self, batch: Any, stage: str) -> tuple[Tensor, Any]:
        """Make a step and refuse a loss that is not finite.

        Raises:
            DataError: If the batch is to blame.
            SonidoError: If it is not.
        """
        loss, outputs = self.step(batch)
        if not torch.isfinite(loss):
            self._explain(batch, stage)
        self._losses[stage].append(loss.detach())
        return loss, outputs

    def _explain(self, batch: Any, stage: str) -> None:
        """Raise the error that says why a loss is not finite."""
        for name, values in self.named_inputs(batch).items():
            finite = torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else torch.isfinite(values)
            if not finite.all():
                bad = [clip for clip, good in zip(batch["clip"], finite.tolist(), strict=True) if not good]
                raise DataError(f"{stage}: {name} of clip {bad[0]} is not finite ({len(bad)} clips); check its audio")
        raise SonidoError(
            f"{stage}: the loss is not finite at step {self.global_step} though all inputs are; "
            f"lower learning_rate ({self.learning_rate:g}) or clip gradients"
        )

    def _keep(self, batch: Any, stage: str) -> None:
        """Keep what the clips of a batch gave, by name: a clip that a sampler repeats counts once."""
        _, outputs = self._finite_step(batch, stage)
        self._gathered.update(zip(batch["clip"], self.items(batch, outputs), strict=True))

    def _take(self) -> dict[str, Any]:
        """Return what was kept, of all processes, and forget it."""
        items, self._gathered = self._gathered, {}
        if self.trainer.world_size > 1:
            parts: list[dict[str, Any]] = [{} for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(parts, items)
            items = {name: item for part in parts for name, item in part.items()}
        return items

    def _mean_loss(self, stage: str) -> float | None:
        """Return the mean loss since the last call, or ``None`` if there was no step."""
        losses, self._losses[stage] = self._losses[stage], []
        return float(torch.stack(losses).mean()) if losses else None

    # --- checkpoints ------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprints(self) -> dict[str, str | None]:
        """SHA-256 of each frozen model; ``None`` of the extractor in the baseline."""
        return {name: None if model is None else model.fingerprint() for name, model in self.frozen.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out and store their fingerprints instead."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in weights.items() if not self._is_frozen(name)}
        checkpoint["fingerprints"] = self.fingerprints

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another front end or extractor; put the present frozen weights in, so that loading stays strict.

        Raises:
            ConfigError: If a fingerprint differs.
        """
        stored = checkpoint.get("fingerprints", {})
        for name, present in self.fingerprints.items():
            if stored.get(name) != present:
                found, wanted = (str(value)[:12] for value in (present, stored.get(name)))
                raise ConfigError(
                    f"the checkpoint was trained with {name} {wanted}, this task has {found}; "
                    f"give the {name} with which it was trained"
                )
        frozen = {name: value for name, value in self.state_dict().items() if self._is_frozen(name)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **frozen}

    def _is_frozen(self, name: str) -> bool:
        """Whether a tensor of the state belongs to a frozen model."""
        return name.partition(".")[0] in self.frozen


def checked_streams(found: Mapping[str, Tensor], dims: Mapping[str, int], kind: str) -> dict[str, Tensor]:
    """Return the streams of a batch if they are those that the task was built for.

    Raises:
        ConfigError: If they are not.
    """
    widths = {name: stream.shape[-1] for name, stream in found.items()}
    if widths != dict(dims):
        raise ConfigError(
            f"the task expects {kind} {dict(dims) or 'none'}, the batch holds {widths or 'none'} (stream: width); "
            "give the datamodule the same extractor as the task"
        )
    return dict(found)


def _score(metric: Metric, items: TestItems) -> float:
    """Return the score of a test set.

    Raises:
        DataError: If it is not defined.
    """
    if metric.aggregation == "mean":
        scores = items.scores[metric.name]
        value = sum(scores) / len(scores) if scores else math.nan
    else:
        value = CORPUS_SCORES[metric.aggregation](items.targets, items.predictions)
    if not math.isfinite(value):
        raise DataError(f"{metric.name} is not defined on these {len(items.names)} test clips; use more clips")
    return value
