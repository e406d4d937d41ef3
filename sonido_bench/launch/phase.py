"""One phase of pre-training: trained, stopped, resumed, written down."""

import csv
import io
import json
import logging
import math
import pickle
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from sonido_bench.benchmark.tracking import Tracker
from sonido_bench.datamodules.pretraining import StepDataModule
from sonido_bench.errors import ConfigError, DataError, SonidoError
from sonido_bench.files import write_json, write_text
from sonido_bench.foundation.phase import Phase
from sonido_bench.launch.pretraining_config import TrainerConfig
from sonido_bench.launch.progress import PhaseProgress

__all__ = [
    "DivergedError",
    "OutOfTime",
    "PhaseRun",
    "load_weights",
    "main_process",
    "read_summary",
    "restore",
    "train_phase",
]

_CHECKPOINT, _SETTINGS, _SUMMARY, _CURVES = "last.ckpt", "settings.json", "summary.json", "curves.csv"


class DivergedError(SonidoError):
    """Training gave a loss or weights that are not finite."""


class OutOfTime(Exception):
    """The time that the user gave is over; a checkpoint was written."""


@dataclass(frozen=True)
class PhaseRun:
    """What is to be trained, and where.

    Attributes:
        name: Shown to the user.
        folder: For checkpoint, curves and summary.
        module: The network in training.
        data: Its batches.
        settings: All that decides the outcome, JSON-able; a folder keeps to its own.
        audio_seconds: Of the batch of one step, on all processes together.
        trainer: Where it runs.
        deadline: Of ``time.time()``, or ``None``.
        tracker: Takes down the curves as well.
        quiet: No progress bar, since other phases run beside this one.
    """

    name: str
    folder: Path
    module: Phase
    data: StepDataModule
    settings: Mapping[str, Any]
    audio_seconds: float
    trainer: TrainerConfig
    deadline: float | None
    tracker: Tracker
    quiet: bool = False


def train_phase(run: PhaseRun) -> None:
    """Train from the last checkpoint, if there is one, to the last step.

    Raises:
        OutOfTime: When the deadline has passed; a checkpoint was written.
        ConfigError: If the folder holds a run of other settings.
        DivergedError: If loss or weights are not finite.
        KeyboardInterrupt: On Ctrl-C or SIGTERM.
    """
    if read_summary(run.folder) is not None:
        _check_settings(run)
        return
    _check_settings(run)
    record = _Record(run)
    checkpoint = run.folder / _CHECKPOINT
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)  # here: importing Lightning sets it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Lightning, which would have more loader workers
            trainer = _trainer(run, [record])
            resumed = str(checkpoint) if checkpoint.is_file() else None
            trainer.fit(run.module, datamodule=run.data, ckpt_path=resumed, weights_only=True)
    except FloatingPointError as error:
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint.is_file() else "there is no checkpoint yet"
        raise DivergedError(f"{run.name}: {error}; {kept}; lower the learning rate and start it anew") from error
    except SystemExit as stop:  # into which Lightning turns Ctrl-C and SIGTERM
        raise KeyboardInterrupt from stop
    finally:
        record.close()
    if main_process():
        summary = record.summary()
        write_json(run.folder / _SUMMARY, summary, indent=2)
        print(
            f"{run.name}: {summary['steps']} steps, {summary['audio_seconds'] / 3600:.2f} h of audio in "
            f"{summary['wall_seconds']:.0f} s: {summary['times_real_time']:.1f}x real time, "
            f"validation loss {summary['final'].get('val/loss', math.nan):.4f}",
            flush=True,
        )


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return what a finished phase left, ``None`` if it is not finished."""
    path = folder / _SUMMARY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the network (``module.model``) from a phase's checkpoint.

    Raises:
        DataError: If there is none, or it cannot be read.
    """
    path = folder / _CHECKPOINT
    try:
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)["state_dict"]
    except (OSError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: expected a checkpoint, found: {error}; delete its folder to train it anew") from error
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def restore(model: nn.Module, folder: Path) -> None:
    """Give a network the weights of a phase's checkpoint.

    Raises:
        DataError: If there is none, or it is of another network.
    """
    try:
        model.load_state_dict(load_weights(folder))
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise DataError(f"{folder}: holds weights of another network ({found}); delete it to train it anew") from error


def main_process() -> bool:
    """Return whether this is the process that writes files, where several train together."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


class _Record(pl.Callback):
    """Curves, costs and checkpoints of a phase; all of it is in the checkpoint, so that nothing is counted twice."""

    def __init__(self, run: PhaseRun) -> None:
        self.run = run
        self.entries: list[dict[str, float]] = []
        self.steps, self.wall_seconds, self.cpu_seconds = 0, 0.0, 0.0
        self._loss_sum, self._losses = 0.0, 0
        self._progress: PhaseProgress | None = None
        self._clocks = (0.0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into the checkpoint."""
        self._count()
        return {
            "entries": self.entries,
            "steps": self.steps,
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "loss": [self._loss_sum, self._losses],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.entries, self.steps = list(state_dict["entries"]), int(state_dict["steps"])
        self.wall_seconds, self.cpu_seconds = float(state_dict["wall_seconds"]), float(state_dict["cpu_seconds"])
        self._loss_sum, self._losses = float(state_dict["loss"][0]), int(state_dict["loss"][1])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start clocks and progress bar."""
        self._clocks = time.monotonic(), time.process_time()
        if trainer.is_global_zero and not self.run.quiet:
            total = self.run.module.config.steps
            self._progress = PhaseProgress(self.run.name, total - self.steps, already=self.steps)
            self._progress.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step; stop when the time is over."""
        self.steps = trainer.global_step
        loss = float(outputs["loss"])
        self._loss_sum, self._losses = self._loss_sum + loss, self._losses + 1
        if self._progress is not None:
            self._progress.advance(f"loss {loss:.4f}, {self._speed():.0f}x real time")
        if self.steps % self.run.module.config.validate_every:
            self._stop_in_time(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take down the curves and write a checkpoint."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics["train/loss"] = self._loss_sum / max(1, self._losses)
        self._loss_sum, self._losses = 0.0, 0
        self._count()
        metrics["cost/wall_seconds"], metrics["cost/cpu_seconds"] = self.wall_seconds, self.cpu_seconds
        finite = {name: value for name, value in sorted(metrics.items()) if math.isfinite(value)}
        self.entries.append({"step": self.steps, **finite})
        if trainer.is_global_zero:
            write_text(self.run.folder / _CURVES, _csv(self.entries))
            self.run.tracker.log(self.steps, finite)
        self._save(trainer)
        if self.run.quiet and trainer.is_global_zero:
            self._print_line()
        if self.steps < self.run.module.config.steps:
            self._stop_in_time(trainer, saved=True)

    def summary(self) -> dict[str, Any]:
        """Return what the phase cost and where it ended."""
        audio = self.steps * self.run.audio_seconds
        return {
            "steps": self.steps,
            "audio_seconds": audio,
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "times_real_time": audio / max(self.wall_seconds, 1e-9),
            "parameters": sum(parameter.numel() for parameter in self.run.module.model.parameters()),
            "final": self.entries[-1] if self.entries else {},
        }

    def close(self) -> None:
        """Leave the progress bar as it stands."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def _stop_in_time(self, trainer: pl.Trainer, saved: bool = False) -> None:
        over = self.run.deadline is not None and time.time() > self.run.deadline
        if trainer.strategy.reduce_boolean_decision(over, all=False):
            if not saved:
                self._save(trainer)
            raise OutOfTime(f"{self.run.name}: step {self.steps} of {self.run.module.config.steps}")

    def _save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint whole or not at all; weights that are spoilt never replace good ones."""
        for name, parameter in self.run.module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise FloatingPointError(f"weight {name} is not finite at step {self.steps}")
        path = self.run.folder / _CHECKPOINT
        temporary = path.with_suffix(".part")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(path)
        trainer.strategy.barrier()

    def _count(self) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        self.wall_seconds += wall - self._clocks[0]
        self.cpu_seconds += cpu - self._clocks[1]
        self._clocks = wall, cpu

    def _speed(self) -> float:
        wall = self.wall_seconds + time.monotonic() - self._clocks[0]
        return self.steps * self.run.audio_seconds / max(wall, 1e-9)

    def _print_line(self) -> None:
        last = self.entries[-1]
        print(
            f"{self.run.name}: step {self.steps}/{self.run.module.config.steps}, loss {last['train/loss']:.4f}, "
            f"validation {last.get('val/loss', math.nan):.4f}, {self._speed():.0f}x real time",
            flush=True,
        )


def _trainer(run: PhaseRun, callbacks: list[pl.Callback]) -> pl.Trainer:
    where = run.trainer
    default = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    precision: Any = run.module.config.precision or where.precision or default
    torch.set_num_threads(where.threads)
    return pl.Trainer(
        accelerator="auto",
        devices=where.devices,
        num_nodes=where.nodes,
        strategy=where.strategy,
        precision=precision,
        max_steps=run.module.config.steps,
        val_check_interval=run.module.config.validate_every,
        check_val_every_n_epoch=None,  # the batches never end: there are no epochs
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        default_root_dir=run.folder,
    )


def _check_settings(run: PhaseRun) -> None:
    path = run.folder / _SETTINGS
    settings = json.loads(json.dumps(run.settings))
    if not path.is_file():
        if main_process():
            write_json(path, settings, indent=2)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != settings:
        old, new = _flat(found), _flat(settings)
        name = next(name for name in sorted(old | new) if old.get(name) != new.get(name))
        raise ConfigError(
            f"{run.folder} was trained with {name} {old.get(name)!r}, the configuration says {new.get(name)!r}; "
            "choose another folder, or delete this one to train it anew"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _csv(entries: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for entry in entries for name in entry))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return text.getvalue()
