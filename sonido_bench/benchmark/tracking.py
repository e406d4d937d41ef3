"""Runs on Weights & Biases, where a user asks for them; our own JSON stays the record.

wandb is an optional dependency and is imported only in the modes ``offline`` and ``online``. Nothing is sent or
stored but what is logged here: no code, no git state, no machine statistics, no copy of the console.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.results import Items, Result
from sonido_bench.errors import ConfigError

if TYPE_CHECKING:
    from wandb import Run, Table

__all__ = ["Mode", "NoTracker", "Tracker", "WandbTracker", "log_leaderboard", "make_tracker"]

Mode = Literal["disabled", "offline", "online"]

PROJECT = "sonido-bench"
TAG_LENGTH = 64
"""Longest tag that W&B accepts."""
FINISH_TIMEOUT_SECONDS = 300.0
"""A lost connection must not hold up the next run: what is left then stays on disk for ``wandb sync``."""


class Tracker(Protocol):
    """Follows one run at a time: ``start``, ``log`` after every validation, ``finish``."""

    def start(self, experiment: Experiment, config: Mapping[str, Any]) -> None:
        """Open a run; one that is still open in this process is closed as failed."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the scores of one validation; ``step`` counts optimiser steps and must grow."""

    def finish(self, result: Result) -> None:
        """Add the test scores, the items and the cost, and close the run."""


class NoTracker:
    """The default: tracks nothing."""

    def start(self, experiment: Experiment, config: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self, result: Result) -> None:
        """Do nothing."""


class WandbTracker:
    """One W&B run per experiment, grouped by benchmark and named ``task/arm/fraction/seed``.

    Every process makes its own tracker, so that several workers may each have a run open.

    Args:
        mode: ``offline`` writes to ``folder``; ``online`` also sends, and needs a key.
        folder: Runs go to ``folder/wandb``.
        benchmark: Name of the group.
        project: W&B project.

    Raises:
        ConfigError: If wandb is missing, or ``online`` finds no key or no server.
    """

    def __init__(
        self, mode: Literal["offline", "online"], folder: Path, benchmark: str, project: str = PROJECT
    ) -> None:
        self.mode = mode
        self.folder = folder
        self.benchmark = benchmark
        self.project = project
        self._run: Run | None = None
        _connect(_import_wandb(), mode)

    def start(self, experiment: Experiment, config: Mapping[str, Any]) -> None:
        """Open a run; one that is still open in this process is closed as failed.

        Raises:
            ConfigError: If ``online`` does not reach the server.
        """
        labels = (experiment.task, experiment.network, experiment.dataset, experiment.arm)
        self._run = _open_run(
            self.mode,
            self.folder,
            project=self.project,
            group=self.benchmark,
            job_type=experiment.task,
            name=f"{experiment.task}/{experiment.arm}/{experiment.fraction:g}/{experiment.seed}",
            tags=[label[:TAG_LENGTH] for label in labels],
            config={**config, "experiment": experiment.as_dict()},
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the scores of one validation; ``step`` counts optimiser steps and must grow."""
        self._open().log(dict(metrics), step=step)

    def finish(self, result: Result) -> None:
        """Add the test scores, the items and the cost to the run's summary, and close it."""
        run = self._open()
        run.summary.update(_summary(result))
        run.summary["test/items"] = _table(_item_rows(result.items))
        run.finish()
        self._run = None

    def _open(self) -> "Run":
        if self._run is None:
            raise RuntimeError("no run is open: call start first")
        return self._run


def make_tracker(mode: str, folder: Path, benchmark: str) -> Tracker:
    """Return the tracker for a mode of the command line.

    Args:
        mode: ``disabled``, ``offline`` or ``online``.
        folder: The benchmark's folder of results; runs go to its ``wandb``.
        benchmark: Its name.

    Raises:
        ConfigError: If the mode is unknown, wandb is missing, or ``online`` finds no key or no server.
    """
    checked = _check_mode(mode)
    return NoTracker() if checked == "disabled" else WandbTracker(checked, folder, benchmark)


def log_leaderboard(
    mode: str, folder: Path, benchmark: str, rows: Sequence[Mapping[str, Any]], examples: Iterable[Path]
) -> None:
    """Add one more run to the benchmark's group: the final table, and examples to hear.

    Args:
        mode: ``disabled`` (nothing happens), ``offline`` or ``online``.
        folder: The benchmark's folder of results.
        benchmark: Its name.
        rows: The rows of the leaderboard, as ``leaderboard --format json`` prints them.
        examples: Audio files; the file's name without its ending is the caption.

    Raises:
        ConfigError: If the mode is unknown, wandb is missing, or ``online`` finds no key or no server.
    """
    checked = _check_mode(mode)
    if checked == "disabled":
        return
    wandb = _import_wandb()
    _connect(wandb, checked)
    run = _open_run(checked, folder, project=PROJECT, group=benchmark, job_type="leaderboard", name="leaderboard")
    audio = [wandb.Audio(str(path), caption=path.stem) for path in examples]
    run.log({"leaderboard": _table(rows)} | ({"examples": audio} if audio else {}))
    run.finish()


def _check_mode(mode: str) -> Mode:
    if mode not in get_args(Mode):
        raise ConfigError(f"W&B mode must be one of {', '.join(get_args(Mode))}, found {mode!r}")
    return cast(Mode, mode)


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("W&B is not installed; `pip install wandb`, or leave its mode at `disabled`") from error
    return wandb


def _connect(wandb: ModuleType, mode: Mode) -> None:
    """Silence wandb; online, log in without ever asking, so that a missing key ends the benchmark before it starts."""
    wandb.setup(settings=wandb.Settings(silent=True))
    if mode == "offline":
        return
    try:
        logged_in = wandb.login(prompt=False)
    except wandb.errors.Error as error:
        raise ConfigError(f"cannot log in to W&B: {error}; use the mode `offline` and `wandb sync` later") from error
    if not logged_in:
        raise ConfigError("W&B mode `online` needs a key; set WANDB_API_KEY, run `wandb login`, or use `offline`")


def _open_run(mode: Mode, folder: Path, **description: Any) -> "Run":
    wandb = _import_wandb()
    if wandb.run is not None:  # its experiment raised before it could finish
        wandb.run.finish(exit_code=1)
    folder.mkdir(parents=True, exist_ok=True)  # wandb would silently choose a temporary folder instead
    if mode == "offline":
        os.environ["WANDB_DATA_DIR"] = str(folder.resolve() / "wandb")  # not copies of tables in the user's home
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        finish_timeout=FINISH_TIMEOUT_SECONDS,
    )
    try:
        run: Run = wandb.init(mode=mode, dir=str(folder), settings=settings, **description)
    except wandb.errors.Error as error:
        raise ConfigError(f"W&B cannot open a run: {error}; use the mode `offline` and `wandb sync` later") from error
    return run


def _summary(result: Result) -> dict[str, float]:
    """Return the scalars of a result under the names that the runs are compared by."""
    cost, parameters = result.cost, result.parameters
    return {
        **{f"test/{name}": value for name, value in result.values.items()},
        "best_step": result.best_step,
        "cost/wall_seconds": cost.wall_seconds,
        "cost/cpu_seconds": cost.cpu_seconds,
        "cost/peak_memory_bytes": cost.peak_memory_bytes,
        "parameters/total": parameters.total,
        "parameters/trained": parameters.trained,
        "parameters/extractor": parameters.extractor,
    }


def _item_rows(items: Items) -> list[dict[str, Any]]:
    """Return one row per test clip: its name, its scores, and for corpus-level metrics target and prediction."""
    columns: dict[str, list[Any]] = {"clip": items.names, **items.scores}
    if items.targets:
        columns |= {"target": items.targets, "prediction": items.predictions}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """Return rows as a W&B table; its columns are all keys, in the order in which they appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table: Table = _import_wandb().Table(columns=columns, data=[[row.get(key) for key in columns] for row in rows])
    return table
