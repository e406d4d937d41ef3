"""Tagging: what plays, in which key, how fast, from one clip."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor
from torch.nn import functional

from sonido_bench.batches import TargetBatch
from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.metrics.corpus import CORPUS_SCORES
from sonido_bench.metrics.items import TestItems
from sonido_bench.metrics.key import KEYS, key_scores
from sonido_bench.metrics.metric import Metric
from sonido_bench.nn.optional_injection import Injection
from sonido_bench.nn.standardise import Standardise
from sonido_bench.nn.tagger import Pooling, Tagger
from sonido_bench.tasks.analysis import AnalysisTask

__all__ = ["Problem", "TaggingTask"]

Problem = Literal["multilabel", "key", "regression"]

_METRICS: Mapping[str, tuple[Metric, ...]] = {
    "multilabel": (Metric("map", "average_precision"), Metric("roc_auc", "roc_auc")),
    "key": (Metric("key_score"), Metric("accuracy")),
    "regression": (Metric("r2", "r2"),),
}
_EXAMPLES = 4


class TaggingTask(AnalysisTask):
    """Labels, a key or values of a clip.

    - ``multilabel``: binary cross-entropy; ``map`` (mean average precision over classes), ``roc_auc``.
    - ``key``: cross-entropy over the 24 classes of ``metrics.key.KEYS``; ``key_score`` (MIREX), ``accuracy``.
    - ``regression``: squared error of targets standardised by the training set; ``r2``.

    Args:
        front_end: The task's own spectrogram.
        extractor: The frozen model; ``None`` is the baseline.
        problem: What kind of target.
        target: Which target of the datamodule: ``instruments``, ``key``, ``tempo``.
        classes: Names of the classes or outputs, or just their number; ``None`` for keys, which are 24.
        width: Channels of the hidden tokens.
        layers: Residual blocks.
        kernel_size: Tokens that a block sees, odd.
        heads: Of the attention pooling.
        pooling: How tokens become one vector.
        dropout: In the network.
        token_out: Share of the tokens that pooling does not see in training.
        injection: How features enter.
        injection_gain: How loud they are beside the task's own spectrogram.
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        max_steps: Length of the schedule; ``None`` takes it from the trainer.

    Raises:
        ConfigError: If ``classes`` does not fit the problem.
    """

    network: ClassVar[str] = "tagger"

    def __init__(
        self,
        front_end: Extractor,
        extractor: Extractor | None = None,
        problem: Problem = "multilabel",
        target: str = "instruments",
        classes: list[str] | int | None = None,
        width: int = 64,
        layers: int = 1,
        kernel_size: int = 1,
        heads: int = 4,
        pooling: Pooling = "attention_mean_max",
        dropout: float = 0.2,
        token_out: float = 0.2,
        injection: Injection = "add",
        injection_gain: float = 1.0,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(front_end, extractor, learning_rate, weight_decay, max_steps)
        self.problem = problem
        self.target = target
        self.classes = _class_names(problem, classes)
        self.metrics = _METRICS[problem]
        self.model = Tagger(
            self.input_dim,
            len(self.classes),
            width=width,
            layers=layers,
            kernel_size=kernel_size,
            heads=heads,
            pooling=pooling,
            dropout=dropout,
            token_out=token_out,
            feature_dims=self.feature_dims,
            injection=injection,
            injection_gain=injection_gain,
        )
        self.scale = Standardise(len(self.classes)) if problem == "regression" else None

    def forward(self, front: Tensor, features: dict[str, Tensor] | None = None) -> Tensor:
        """Return what can be read: probabilities of labels or keys, or values; ``(batch, classes)``."""
        return self._readable(self.run_model((front, features)))

    def step(self, batch: TargetBatch) -> tuple[Tensor, Tensor]:
        """Return the loss and the predictions of a batch."""
        output, target = self.run_model(self.inputs(batch)), batch["target"]
        if self.problem == "multilabel":
            loss = functional.binary_cross_entropy_with_logits(output, target)
        elif self.problem == "key":
            loss = functional.cross_entropy(output, target)
        else:
            loss = functional.mse_loss(output, self._scale(target))
        return loss, self._readable(output.detach())

    def items(self, batch: TargetBatch, outputs: Tensor) -> list[tuple[Any, Any]]:
        """Keep target and prediction of each clip."""
        target, prediction = batch["target"].cpu().numpy(), outputs.cpu().numpy()
        return list(zip(target, prediction, strict=True))

    def validation_scores(self, items: Mapping[str, Any]) -> dict[str, float]:
        """Score the validation set exactly as the test set."""
        targets, predictions = _stack(items)
        if self.problem == "key":
            return {name: float(scores.mean()) for name, scores in _key_items(targets, predictions).items()}
        return {metric.name: CORPUS_SCORES[metric.aggregation](targets, predictions) for metric in self.metrics}

    def summarise(self, items: Mapping[str, Any]) -> TestItems:
        """Return scores per clip for keys, else targets and predictions."""
        targets, predictions = _stack(items)
        names = list(items)
        examples = {
            name: {"reference": self._describe(target), "estimate": self._describe(prediction)}
            for name, target, prediction in zip(names[:_EXAMPLES], targets, predictions, strict=False)
        }
        if self.problem == "key":
            scores = {name: each.tolist() for name, each in _key_items(targets, predictions).items()}
            return TestItems(names, scores=scores, examples=examples)
        return TestItems(names, targets=targets.tolist(), predictions=predictions.tolist(), examples=examples)

    def update_statistics(self, batch: TargetBatch) -> None:
        """Take a batch into the statistics of the input and, in a regression, of the target."""
        super().update_statistics(batch)
        if self.scale is not None:
            self.scale.update(batch["target"])

    def predict_step(self, batch: TargetBatch, batch_idx: int) -> dict[str, dict[str, float]]:
        """Return, for each clip, every class or output with its probability or value."""
        predictions = self(*self.inputs(batch)).tolist()
        return {
            clip: dict(zip(self.classes, values, strict=True))
            for clip, values in zip(batch["clip"], predictions, strict=True)
        }

    def _readable(self, output: Tensor) -> Tensor:
        """Turn the network's output into probabilities or values."""
        if self.problem == "multilabel":
            return output.sigmoid()
        return output.softmax(-1) if self.scale is None else self.scale.inverse(output)

    def _scale(self, target: Tensor) -> Tensor:
        """Standardise regression targets."""
        return target if self.scale is None else self.scale(target)

    def _describe(self, values: np.ndarray[Any, Any]) -> list[Any]:
        """Return a clip's labels (those at 0.5 or more), its key, or its values."""
        if self.problem == "regression":
            return [float(value) for value in values]
        if self.problem == "key":
            return [self.classes[int(values if values.ndim == 0 else values.argmax())]]
        return [name for name, value in zip(self.classes, values, strict=True) if value >= 0.5]


def _class_names(problem: Problem, classes: list[str] | int | None) -> tuple[str, ...]:
    """Return the names of the classes or outputs.

    Raises:
        ConfigError: If they do not fit the problem.
    """
    if problem == "key":
        if classes not in (None, len(KEYS), list(KEYS)):
            raise ConfigError(f"problem key has the {len(KEYS)} classes {KEYS[0]} .. {KEYS[-1]}; leave `classes` out")
        return KEYS
    names = tuple(str(index) for index in range(classes)) if isinstance(classes, int) else tuple(classes or ())
    if not names:
        raise ConfigError(f"problem {problem} needs `classes`: a list of names, or their number; got {classes!r}")
    return names


def _key_items(targets: np.ndarray[Any, Any], predictions: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the scores of each clip's key, ``(items,)``."""
    estimates = predictions.argmax(1)
    return {"key_score": key_scores(targets, estimates), "accuracy": (targets == estimates).astype(float)}


def _stack(items: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return targets and predictions of all clips, one row a clip."""
    targets, predictions = zip(*items.values(), strict=True)
    return np.stack(targets), np.stack(predictions)
