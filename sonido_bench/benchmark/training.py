"""Training under a budget: the weights that are best on validation, and nothing from the test set."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from sonido_bench.benchmark.config import Budget
from sonido_bench.benchmark.history import History

__all__ = ["BestWeights", "attach_features", "train"]


@dataclass(frozen=True)
class BestWeights:
    """Outcome of a training run.

    Attributes:
        path: The checkpoint that was best on validation.
        step: After how many optimiser steps it was written.
        score: Its validation score (the task's ``monitor``).
        trainer: To test it with.
    """

    path: Path
    step: int
    score: float
    trainer: pl.Trainer


def attach_features(task: Any, data: Any, cache: Any) -> None:
    """Let the batches of a data set carry cached streams of the task's frozen models instead of audio.

    Args:
        task: The task model; if it has none, its batches stay as they are.
        data: A data module, set up.
        cache: The feature cache.

    Raises:
        ConfigError: If the data set changes its audio at random, so that no cached features fit.
    """
    models = {name: model for name, model in task.frozen.items() if model is not None}
    if not models:
        return
    clips = [clip for split in ("train", "validation", "test") for clip in data.clips(split)]
    streams = {name: cache.streams(model.fingerprint(), clips) for name, model in models.items()}
    data.attach(streams.get("front_end"), streams.get("extractor"))


def train(task: Any, data: Any, budget: Budget, folder: Path, history: History) -> BestWeights:
    """Train a task and keep the weights that are best on validation.

    Args:
        task: The task model; it names the validation score to go by (``monitor``, ``mode``).
        data: Its data module, features attached.
        budget: Steps, validations and patience.
        folder: For the checkpoint; what a killed run left there is removed.
        history: Takes down the learning curve.

    Raises:
        FloatingPointError: If no validation gave a finite score.
    """
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = ModelCheckpoint(folder, "best", monitor=task.monitor, mode=task.mode, save_weights_only=True)
    stopping = EarlyStopping(task.monitor, mode=task.mode, patience=budget.patience)
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        max_steps=budget.max_steps,
        callbacks=[stopping, checkpoint, history],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    # The loaders, not the data module: Lightning would have it prepare its data again for every run.
    trainer.fit(task, data.train_dataloader(), data.val_dataloader())
    score = checkpoint.best_model_score
    if score is None or not math.isfinite(score):
        raise FloatingPointError(f"no validation gave a finite {task.monitor}; lower the learning rate")
    path = Path(checkpoint.best_model_path)
    step = int(torch.load(path, weights_only=True, map_location="cpu")["global_step"])
    return BestWeights(path, step, float(score), trainer)
