"""Pre-training on this machine: stage one, tokens, stage two, waveform decoder, and a model folder at the end.

<folder>/stage_one, stage_two/<level>, waveform_decoder     last.ckpt, curves.csv, settings.json, summary.json
<folder>/tokens/<key>/                                      shards of tokens
<folder>/history.png                                        all curves
<folder>/model/                                             the finished model
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
from sonido_bench.foundation.sonido.tokens import read_index
from sonido_bench.launch.lock import locked
from sonido_bench.launch.phase import OutOfTime, main_process, read_summary
from sonido_bench.launch.phases import STAGE_ONE, PhaseJob, later_phases, phase_folder, train
from sonido_bench.launch.pool import Job, worker_pool
from sonido_bench.launch.pretraining_config import PretrainingConfig, load_pretraining
from sonido_bench.launch.pretraining_output import draw_history, export_model
from sonido_bench.launch.progress import PhaseProgress
from sonido_bench.launch.token_extraction import check_clap, encoding_jobs, tokens_key

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
        config_path: A YAML file; see ``PretrainingConfig``.
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
    config = load_pretraining(config_path, changes)
    config = config if data is None else config.at(data)
    check_clap(config)  # before the hours of stage one
    make_tracker(wandb, folder, config.model.name)  # a missing key shows now
    workers = workers or len(os.sched_getaffinity(0))
    main = main_process()  # where several processes train together, one does all the rest
    with locked(folder) if main else nullcontext():
        try:
            identity = _run(config, folder, deadline, workers, wandb)
        except OutOfTime as stop:
            print(f"stopped after {minutes:g} minutes ({stop}); the same command resumes", file=sys.stderr)
            return False
        finally:
            if main:
                draw_history(folder)
        if main:
            print(f"the model is in {export_model(config, folder, identity)}")
    return True


def _run(config: PretrainingConfig, folder: Path, deadline: float | None, workers: int, wandb: str) -> str:
    """Run all phases that are not finished, and return the hash of the audio.

    Raises:
        OutOfTime: When the deadline has passed.
    """
    loaders = 0 if workers == 1 else workers - 1
    train(PhaseJob(config, folder, STAGE_ONE, None, deadline, wandb, loaders, quiet=False))
    source = open_audio(config.data)
    tokens = folder / "tokens" / tokens_key(config, source, folder / STAGE_ONE)[:12]
    _extract(config, source, folder, tokens, deadline, workers)
    unfinished = [phase for phase in later_phases(config) if read_summary(phase_folder(folder, phase)) is None]
    together = config.trainer.devices == config.trainer.nodes == 1 and not torch.cuda.is_available()
    if together and workers > 1 and len(unfinished) > 1:
        jobs = [PhaseJob(config, folder, phase, tokens, deadline, wandb) for phase in unfinished]
        _run_jobs(jobs, workers, lambda _phase: None)
    for phase in later_phases(config):  # those that are finished are held to their settings
        train(PhaseJob(config, folder, phase, tokens, deadline, wandb, loaders, quiet=False))
    return source.identity


def _extract(
    config: PretrainingConfig, source: AudioSource, folder: Path, tokens: Path, deadline: float | None, workers: int
) -> None:
    """Encode the recordings that have no tokens yet.

    Raises:
        OutOfTime: When the deadline has passed.
    """
    while not main_process() and not (tokens / _COMPLETE).is_file():
        time.sleep(_POLL_SECONDS)  # another process encodes
    if (tokens / _COMPLETE).is_file():
        return
    jobs, start = encoding_jobs(config, source, folder / STAGE_ONE, tokens, deadline), time.monotonic()
    if jobs:
        with PhaseProgress("encoding", len(jobs)) as progress:
            _run_jobs(jobs, workers, progress.advance)
    left = sum(not job.path.is_file() for job in jobs)
    if left:
        raise OutOfTime(f"tokens: {left} of {len(jobs)} shards left")
    _print_speed(config, [job.path for job in jobs], time.monotonic() - start)
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


def _print_speed(config: PretrainingConfig, shards: Sequence[Path], wall: float) -> None:
    stage_one = config.model.stage_one
    frames = sum(track.frames for track in read_index(shards))
    seconds = frames * stage_one.hop("top") / stage_one.sample_rate
    print(
        f"tokens: {seconds / 3600:.2f} h of audio in {wall:.0f} s: {seconds / max(wall, 1e-9):.0f}x real time",
        flush=True,
    )
