"""What a pre-training leaves: its curves as a figure, and the model with its card."""

import csv
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonido_bench.benchmark.environment import describe_environment
from sonido_bench.files import atomic_path
from sonido_bench.foundation.card import ModelCard, Row
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.launch.phase import read_summary
from sonido_bench.launch.phases import phase_folder
from sonido_bench.launch.pretraining_config import PretrainingConfig
from sonido_bench.launch.recipe import Recipe

__all__ = ["draw_history", "export_model"]

_CURVE_ROWS = 12  # of each phase, in the card


def draw_history(folder: Path) -> None:
    """Draw the curves of all phases into ``history.png``: one panel each, losses over steps."""
    curves = {path.parent.relative_to(folder).as_posix(): _read_curves(path) for path in _curve_files(folder)}
    if not curves:
        return
    from matplotlib.figure import Figure  # here: half a second, and nothing else needs it

    figure = Figure(figsize=(4 * len(curves), 3), layout="constrained")
    for axis, (phase, rows) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name, label in {"train/loss": "training", "val/loss": "validation"}.items():
            points = [(row["step"], row[name]) for row in rows if name in row]
            axis.plot([step for step, _ in points], [loss for _, loss in points], label=label)
        axis.set_title(phase, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(color="#dddddd", linewidth=0.5)
        axis.legend(fontsize=8)
    figure.supylabel("loss", fontsize=9)
    with atomic_path(folder / "history.png") as temporary:
        figure.savefig(temporary, dpi=120)


def export_model(recipe: Recipe, folder: Path, data_identity: str) -> Path:
    """Put the trained parts together and write the model folder.

    Args:
        recipe: Of the pre-training.
        folder: Its folder; all phases are finished.
        data_identity: Hash of the audio.

    Returns:
        The model's folder.
    """
    save_checkpoint(folder / "model", recipe.assembled(folder), _card(recipe, folder, data_identity))
    return folder / "model"


def _card(recipe: Recipe, folder: Path, data_identity: str) -> ModelCard:
    config, phases = recipe.config, [recipe.first, *recipe.later]
    summaries = {phase: read_summary(phase_folder(folder, phase)) or {} for phase in phases}
    data, seeds = _describe_data(config, data_identity), {"training": config.seed}
    if config.data.rendered is not None:
        seeds["music"] = config.data.rendered.seed
    return ModelCard(
        name=config.name,
        description=config.card.description,
        licence=config.card.licence,
        citation=config.card.citation,
        command=shlex.join(["sonido-bench", *sys.argv[1:]]),
        data=data,
        seeds=seeds,
        steps={phase: int(summary["steps"]) for phase, summary in summaries.items()},
        hardware=_describe_hardware(folder, summaries),
        curves=tuple(row for phase in phases for row in _card_rows(folder, phase)),
        limits=config.card.limits,
        differences=config.card.differences,
    )


def _describe_data(config: PretrainingConfig, identity: str) -> str:
    rendered = config.data.rendered
    if rendered is None:
        return f"A folder of audio files (SHA-256 of names, sizes and lengths: {identity})."
    hours = (rendered.tracks - rendered.validation_tracks) * rendered.seconds / 3600
    return (
        f"{hours:.1f} h of music rendered by this package: split `pretrain`, data seed {rendered.seed}, "
        f"{rendered.tracks} tracks of {rendered.seconds:g} s of which {rendered.validation_tracks} were held out "
        f"(SHA-256 of generator, configuration and soundfont: {identity})."
    )


def _describe_hardware(folder: Path, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    environment = describe_environment()
    costs = [
        f"{phase} {summary['wall_seconds']:.0f} s ({summary['cpu_seconds']:.0f} CPU-s, "
        f"{summary['times_real_time']:.0f}x real time)"
        for phase, summary in summaries.items()
    ]
    return f"{environment['device']}, {environment['platform']}: {'; '.join(costs)}."


def _card_rows(folder: Path, phase: str) -> list[Row]:
    """Return some rows of a phase's curves, the last among them."""
    rows = _read_curves(phase_folder(folder, phase) / "curves.csv")
    step = -(-len(rows) // _CURVE_ROWS)
    kept = rows[::-1][::step][::-1]
    return [
        {"phase": phase, "step": int(row["step"]), "training": row["train/loss"], "validation": row["val/loss"]}
        for row in kept
    ]


def _curve_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("**/curves.csv")) if path.stat().st_size]


def _read_curves(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
