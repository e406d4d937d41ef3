"""The phases of a pre-training: which network on which batches."""

from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.tracking import make_tracker
from sonido_bench.datamodules.pretraining import HeldOutSegments, RandomSegments, StepDataModule
from sonido_bench.datamodules.recordings import AudioSource, open_audio
from sonido_bench.foundation.configuration import plain
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.sonido.model import build_prior
from sonido_bench.foundation.sonido.stage_one import StageOne, StageOneTraining, WaveformStage, WaveformTraining
from sonido_bench.foundation.sonido.stage_two import StageTwo
from sonido_bench.foundation.sonido.tokens import TokenWindows
from sonido_bench.foundation.sonido.waveform_decoder import WaveformDecoder
from sonido_bench.launch.phase import OutOfTime, PhaseRun, main_process, train_phase
from sonido_bench.launch.pretraining_config import PretrainingConfig
from sonido_bench.launch.token_extraction import load_autoencoder, token_tracks, weights_sha256

__all__ = ["STAGE_ONE", "WAVEFORM_DECODER", "PhaseJob", "later_phases", "phase_folder", "train"]

STAGE_ONE, WAVEFORM_DECODER = "stage_one", "waveform_decoder"


@dataclass(frozen=True)
class PhaseJob:
    """One phase, for a pool of processes or for this one.

    Attributes:
        config: The pre-training.
        folder: Of the pre-training.
        phase: ``stage_one``, ``stage_two/<level>`` or ``waveform_decoder``.
        tokens: Folder of the tokens, for stage two.
        deadline: Of ``time.time()``, or ``None``.
        wandb: ``disabled``, ``offline`` or ``online``.
        loaders: Processes that read audio; 0: the one that trains.
        quiet: No progress bar.
    """

    config: PretrainingConfig
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


def later_phases(config: PretrainingConfig) -> list[str]:
    """Return the phases after the tokens, which need nothing of each other."""
    phases = [f"stage_two/{prior.level}" for prior in config.model.priors]
    return phases if config.waveform_decoder is None else [*phases, WAVEFORM_DECODER]


def train(job: PhaseJob) -> None:
    """Train a phase.

    Raises:
        OutOfTime: When the deadline has passed.
        SonidoError: As ``train_phase`` and the data do.
    """
    torch.manual_seed(job.config.seed)  # of the weights
    if job.phase == STAGE_ONE:
        run = _stage_one(job)
    elif job.phase == WAVEFORM_DECODER:
        run = _waveform_decoder(job)
    else:
        run = _stage_two(job, job.phase.rpartition("/")[2])
    try:
        train_phase(run)
    finally:
        if job.wandb != "disabled" and main_process():
            import wandb

            wandb.finish()  # a tracker closes a run only with a benchmark's result


def _stage_one(job: PhaseJob) -> PhaseRun:
    config, source = job.config, open_audio(job.config.data)
    model = HQVAE(config.model.stage_one)
    module = StageOne(model, config.stage_one, config.seed)
    data = _audio_batches(job, source, config.stage_one, model.common_hop)
    if not (job.folder / STAGE_ONE / "last.ckpt").is_file():
        module.initialise(list(islice(data.batches(), config.stage_one.initial_batches)))
    settings = {"audio": source.identity, "model": plain(config.model.stage_one), "training": plain(config.stage_one)}
    seconds = config.stage_one.samples(config.model.stage_one.sample_rate, model.common_hop)
    return _phase_run(job, module, data, settings, seconds / config.model.stage_one.sample_rate)


def _waveform_decoder(job: PhaseJob) -> PhaseRun:
    config, source, weights = job.config, open_audio(job.config.data), job.folder / STAGE_ONE
    training, architecture = config.waveform_decoder, config.model.waveform_decoder
    assert training is not None  # PretrainingConfig saw to it
    assert architecture is not None
    autoencoder = load_autoencoder(config.model.stage_one, weights)
    hop = config.model.stage_one.front_end.hop_length
    decoder = WaveformDecoder(architecture, autoencoder.front_end.channels, hop)
    module = WaveformStage(decoder, autoencoder, training, config.seed)
    data = _audio_batches(job, source, training, autoencoder.common_hop)
    settings = {"stage_one": weights_sha256(weights), "model": plain(architecture), "training": plain(training)}
    seconds = training.samples(config.model.stage_one.sample_rate, autoencoder.common_hop)
    return _phase_run(job, module, data, settings, seconds / config.model.stage_one.sample_rate)


def _stage_two(job: PhaseJob, level: str) -> PhaseRun:
    config, tokens = job.config, job.tokens
    assert tokens is not None  # the runner made them first
    architecture = config.model.prior(level)
    training = config.stage_two[architecture.level]
    prior = build_prior(architecture, config.model.stage_one)
    prior.initialise_embeddings(load_autoencoder(config.model.stage_one, job.folder / STAGE_ONE).cpu().codes(level))
    module = StageTwo(prior, training, config.seed)
    wanted = [level] if architecture.above is None else [level, architecture.above]
    ratios = {name: config.ratio(name) for name in wanted}
    window, conditioned = architecture.context // ratios[level], architecture.condition_dim is not None
    held_out, length = token_tracks(tokens, "validation"), training.validation_windows
    data = StepDataModule(
        TokenWindows(token_tracks(tokens, "train"), window, ratios, config.seed, condition=conditioned),
        TokenWindows(held_out, window, ratios, config.seed, length, conditioned),
        training.batch_size,
        crops=1,
        num_workers=0,  # reading is a few memory-mapped slices
    )
    settings = {"tokens": tokens.name, "model": plain(architecture), "training": plain(training)}
    seconds = architecture.context * config.model.stage_one.hop(level) / config.model.stage_one.sample_rate
    return _phase_run(job, module, data, settings, seconds)


def _audio_batches(
    job: PhaseJob, source: AudioSource, training: StageOneTraining | WaveformTraining, common_hop: int
) -> StepDataModule:
    rate, config = job.config.model.stage_one.sample_rate, job.config
    samples = training.samples(rate, common_hop)
    # the two phases that read audio draw from streams of their own
    seed = 2 * config.seed + isinstance(training, WaveformTraining)
    segments = RandomSegments(source, config.augmentation, samples, rate, training.crops, seed)
    held_out = HeldOutSegments(source, samples, rate)
    return StepDataModule(segments, held_out, training.batch_size, training.crops, job.loaders)


def _phase_run(
    job: PhaseJob,
    module: StageOne | StageTwo | WaveformStage,
    data: StepDataModule,
    settings: dict[str, object],
    item_seconds: float,
) -> PhaseRun:
    """Add what all phases have in common."""
    config, where = job.config, job.config.trainer
    processes = max(where.devices, 1) * where.nodes
    shared = {"seed": config.seed, "processes": processes, "augmentation": plain(config.augmentation)}
    tracker = make_tracker(job.wandb if main_process() else "disabled", job.folder, config.model.name)
    tracker.start(Experiment("pretraining", config.model.name, "audio", job.phase, 1.0, config.seed), plain(config))
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
