"""Pre-training on this machine: a tokenizer, its tokens, the networks that read them, and a model folder at the end.

<folder>/<phase>/          last.ckpt, curves.csv, settings.json, summary.json
<folder>/tokens/<key>/     shards of tokens
<folder>/history.png       all curves
<folder>/model/            the finished model
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from sonido_bench.benchmark.tracking import make_tracker
from sonido_bench.datamodules.recordings import AudioSource, open_audio
from sonido_bench.files import write_text
from sonido_bench.foundation.tokens import read_index
from sonido_bench.launch.codec_pretraining import CodecRecipe
from sonido_bench.launch.jukebox_pretraining import JukeboxRecipe
from sonido_bench.launch.lock import locked
from sonido_bench.launch.phase import OutOfTime, main_process, read_summary
from sonido_bench.launch.phases import PhaseJob, phase_folder, train
from sonido_bench.launch.pool import Job, worker_pool
from sonido_bench.launch.pretraining_config import CodecPretrainingConfig, JukeboxPretrainingConfig, load_pretraining
from sonido_bench.launch.pretraining_output import draw_history, export_model
from sonido_bench.launch.progress import PhaseProgress
from sonido_bench.launch.recipe import Recipe
from sonido_bench.launch.sonido_pretraining import SonidoRecipe
from sonido_bench.launch.token_extraction import Tokenizer, encoding_jobs, tokens_key

__all__ = ["pretrain"]

_POLL_SECONDS = 2.0
_COMPLETE = "complete"


def pretrain(
    config_path: Path,
    folder: Path,
    minutes: float | None = None,
    workers: int | None = None,
    wandb: str = "disabled",
    data: Path | None = None,
    changes: Sequence[str] = (),
) -> bool:
    """Pre-train a model, or go on where the same call was stopped.

    Stopped by ``minutes``, nothing is lost; by Ctrl-C or a kill, at most what came after the last validation. In
    either case the weights at the end are those of a run at a stretch.

    Args:
        config_path: A YAML file; see ``load_pretraining``.
        folder: For all that comes out.
        minutes: After which to stop; ``None``: when done.
        workers: Processes; by default one per CPU core that this process may use.
        wandb: ``disabled``, ``offline`` or ``online``; one run for each phase and call.
        data: Root of the audio, instead of the file's.
        changes: Entries that are others than in the file; see ``load_pretraining``.

    Returns:
        Whether the model is finished.

    Raises:
        ConfigError: If the file is wrong, or the folder holds a run of another one.
        SonidoError: If audio or disk are at fault, or training diverged.
    """
    deadline = None if minutes is None else time.time() + 60 * minutes
    recipe = _recipe(config_path, changes, data)
    recipe.check()  # before the hours of the first phase
    make_tracker(wandb, folder, recipe.config.name)  # a missing key shows now
    workers = workers or len(os.sched_getaffinity(0))
    main = main_process()  # where several processes train together, one does all the rest
    with locked(folder) if main else nullcontext():
        try:
            identity = _run(recipe, folder, deadline, workers, wandb)
        except OutOfTime as stop:
            print(f"stopped after {minutes:g} minutes ({stop}); the same command resumes", file=sys.stderr)
            return False
        finally:
            if main:
                draw_history(folder)
        if main:
            print(f"the model is in {export_model(recipe, folder, identity)}")
    return True


def _recipe(path: Path, changes: Sequence[str], data: Path | None) -> Recipe:
    """Read a pre-training, and choose what its family of models brings to it."""
    config = load_pretraining(path, changes)
    if isinstance(config, CodecPretrainingConfig):
        return CodecRecipe(config if data is None else config.at(data))
    if isinstance(config, JukeboxPretrainingConfig):
        return JukeboxRecipe(config if data is None else config.at(data))
    return SonidoRecipe(config if data is None else config.at(data))


def _run(recipe: Recipe, folder: Path, deadline: float | None, workers: int, wandb: str) -> str:
    """Run all phases that are not finished, and return the hash of the audio.

    Raises:
        OutOfTime: When the deadline has passed.
    """
    config, loaders = recipe.config, 0 if workers == 1 else workers - 1
    train(PhaseJob(recipe, folder, recipe.first, None, deadline, wandb, loaders, quiet=False))
    source, tokenizer = open_audio(config.data), recipe.tokenizer(folder)
    tokens = folder / "tokens" / tokens_key(config, source, tokenizer)[:12]
    _extract(recipe, source, tokenizer, tokens, deadline, workers)
    unfinished = [phase for phase in recipe.later if read_summary(phase_folder(folder, phase)) is None]
    together = config.trainer.devices == config.trainer.nodes == 1 and not torch.cuda.is_available()
    if together and workers > 1 and len(unfinished) > 1:
        jobs = [PhaseJob(recipe, folder, phase, tokens, deadline, wandb) for phase in unfinished]
        _run_jobs(jobs, workers, lambda _phase: None)
    for phase in recipe.later:  # those that are finished are held to their settings
        train(PhaseJob(recipe, folder, phase, tokens, deadline, wandb, loaders, quiet=False))
    return source.identity


def _extract(
    recipe: Recipe, source: AudioSource, tokenizer: Tokenizer, tokens: Path, deadline: float | None, workers: int
) -> None:
    """Encode the recordings that have no tokens yet.

    Raises:
        OutOfTime: When the deadline has passed.
    """
    while not main_process() and not (tokens / _COMPLETE).is_file():
        time.sleep(_POLL_SECONDS)  # another process encodes
    if (tokens / _COMPLETE).is_file():
        return
    jobs, start = encoding_jobs(recipe.config, source, tokenizer, tokens, deadline), time.monotonic()
    if jobs:
        with PhaseProgress("encoding", len(jobs)) as progress:
            _run_jobs(jobs, workers, progress.advance)
    left = sum(not job.path.is_file() for job in jobs)
    if left:
        raise OutOfTime(f"tokens: {left} of {len(jobs)} shards left")
    _print_speed(tokenizer, [job.path for job in jobs], time.monotonic() - start)
    write_text(tokens / _COMPLETE, "")


def _run_jobs(jobs: Sequence[Job], workers: int, done: Callable[[str], None]) -> None:
    """Run jobs on so many processes; a single worker is this process."""
    if workers > 1:
        with worker_pool(min(workers, len(jobs))) as pool:
            pool.run(jobs, done)
    else:
        for job in jobs:
            job()
            done(job.label)


def _print_speed(tokenizer: Tokenizer, shards: Sequence[Path], wall: float) -> None:
    seconds = sum(track.frames for track in read_index(shards, tokenizer.coarsest)) * tokenizer.frame_seconds
    print(
        f"tokens: {seconds / 3600:.2f} h of audio in {wall:.0f} s: {seconds / max(wall, 1e-9):.0f}x real time",
        flush=True,
    )
