"""The phases of a pre-training: what they have in common, whichever family of models is trained."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.tracking import make_tracker
from sonido_bench.datamodules.pretraining import HeldOutSegments, RandomSegments, StepDataModule
from sonido_bench.datamodules.recordings import open_audio
from sonido_bench.foundation.audio_phase import AudioTraining
from sonido_bench.foundation.configuration import plain
from sonido_bench.foundation.phase import Phase
from sonido_bench.foundation.token_phase import TokenTraining
from sonido_bench.foundation.tokens import TokenWindows
from sonido_bench.launch.phase import OutOfTime, PhaseRun, main_process, train_phase
from sonido_bench.launch.recipe import Recipe
from sonido_bench.launch.token_extraction import token_tracks

__all__ = ["PhaseJob", "audio_batches", "phase_folder", "phase_run", "token_batches", "train"]


@dataclass(frozen=True)
class PhaseJob:
    """One phase, for a pool of processes or for this one.

    Attributes:
        recipe: Of the family of models.
        folder: Of the pre-training.
        phase: One of the recipe's.
        tokens: Folder of the tokens, for phases that read them.
        deadline: Of ``time.time()``, or ``None``.
        wandb: ``disabled``, ``offline`` or ``online``.
        loaders: Processes that read audio; 0: the one that trains.
        quiet: No progress bar.
    """

    recipe: Recipe
    folder: Path
    phase: str
    tokens: Path | None
    deadline: float | None
    wandb: str
    loaders: int = 0
    quiet: bool = True

    @property
    def label(self) -> str:
        """What a progress bar shows."""
        return self.phase

    def __call__(self) -> None:
        """Train until the last step or the deadline."""
        with suppress(OutOfTime):  # there is a checkpoint, and no summary
            train(self)


def phase_folder(folder: Path, phase: str) -> Path:
    """Return where a phase keeps its files."""
    return folder / phase


def train(job: PhaseJob) -> None:
    """Train a phase.

    Raises:
        OutOfTime: When the deadline has passed.
        SonidoError: As ``train_phase`` and the data do.
    """
    torch.manual_seed(job.recipe.config.seed)  # of the weights
    run = job.recipe.phase(job)
    try:
        train_phase(run)
    finally:
        if job.wandb != "disabled" and main_process():
            import wandb

            wandb.finish()  # a tracker closes a run only with a benchmark's result


def audio_batches(
    job: PhaseJob, training: AudioTraining, sample_rate: int, hop: int, seed: int
) -> tuple[StepDataModule, str]:
    """Return a phase's batches of segments, and the hash of the audio.

    Args:
        job: The phase.
        training: How it trains.
        sample_rate: Of the segments, in Hz.
        hop: Of which their length is a multiple, in samples.
        seed: Of the draws.
    """
    config, source = job.recipe.config, open_audio(job.recipe.config.data)
    samples = training.samples(sample_rate, hop)
    segments = RandomSegments(source, config.augmentation, samples, sample_rate, training.crops, seed)
    held_out = HeldOutSegments(source, samples, sample_rate)
    return StepDataModule(segments, held_out, training.batch_size, training.crops, job.loaders), source.identity


def token_batches(
    job: PhaseJob,
    training: TokenTraining,
    window: int,
    ratios: Mapping[str, int],
    coarsest: str,
    condition: bool = False,
    place: bool = False,
) -> StepDataModule:
    """Return a phase's batches of tokens.

    Args:
        job: The phase; its ``tokens`` are there.
        training: How it trains.
        window: Length of an item, in frames of the coarsest level.
        ratios: Levels that are wanted: frames in one frame of the coarsest.
        coarsest: The coarsest level that was written.
        condition: Also give the audio embedding.
        place: Also give where in its recording a window lies.
    """
    tokens, seed = job.tokens, job.recipe.config.seed
    assert tokens is not None  # the runner made them first
    held_out, length = token_tracks(tokens, "validation", coarsest), training.validation_windows
    return StepDataModule(
        TokenWindows(token_tracks(tokens, "train", coarsest), window, ratios, seed, None, condition, place),
        TokenWindows(held_out, window, ratios, seed, length, condition, place),
        training.batch_size,
        crops=1,
        num_workers=0,  # reading is a few memory-mapped slices
    )


def phase_run(
    job: PhaseJob, module: Phase, data: StepDataModule, settings: Mapping[str, object], item_seconds: float
) -> PhaseRun:
    """Add what all phases have in common.

    Args:
        job: The phase.
        module: The network in training.
        data: Its batches.
        settings: What decides the outcome besides seed, processes and augmentation; JSON-able.
        item_seconds: Audio of an item.
    """
    config, where = job.recipe.config, job.recipe.config.trainer
    processes = max(where.devices, 1) * where.nodes
    shared = {"seed": config.seed, "processes": processes, "augmentation": plain(config.augmentation)}
    tracker = make_tracker(job.wandb if main_process() else "disabled", job.folder, config.name)
    tracker.start(Experiment("pretraining", config.name, "audio", job.phase, 1.0, config.seed), plain(config))
    return PhaseRun(
        name=job.phase,
        folder=phase_folder(job.folder, job.phase),
        module=module,
        data=data,
        settings={**shared, **settings},
        audio_seconds=module.config.batch_size * item_seconds * processes,
        trainer=where,
        deadline=job.deadline,
        tracker=tracker,
        quiet=job.quiet,
    )
