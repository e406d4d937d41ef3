"""Pre-training of a SoniDo model: an autoencoder, a transformer for each level of its tokens, a waveform decoder.

<folder>/stage_one, stage_two/<level>, waveform_decoder
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.clap import ClapEmbedding
from sonido_bench.foundation.configuration import plain
from sonido_bench.foundation.sonido.config import StageOneConfig
from sonido_bench.foundation.sonido.hqvae import HQVAE
from sonido_bench.foundation.sonido.model import Sonido, build_prior
from sonido_bench.foundation.sonido.stage_one import StageOne, WaveformStage
from sonido_bench.foundation.sonido.stage_two import StageTwo
from sonido_bench.foundation.sonido.tokens import encode_track
from sonido_bench.foundation.sonido.waveform_decoder import WaveformDecoder
from sonido_bench.launch.phase import PhaseRun, restore
from sonido_bench.launch.phases import PhaseJob, audio_batches, phase_folder, phase_run, token_batches
from sonido_bench.launch.pretraining_config import SonidoPretrainingConfig
from sonido_bench.launch.recipe import Recipe
from sonido_bench.launch.token_extraction import Encoder, as_stored, weights_sha256

__all__ = ["SonidoRecipe", "SonidoTokenizer"]

_STAGE_ONE, _STAGE_TWO, _WAVEFORM_DECODER = "stage_one", "stage_two", "waveform_decoder"


@dataclass(frozen=True)
class SonidoTokenizer:
    """A finished stage one, and what embeds the audio beside it; see ``Tokenizer``.

    Attributes:
        stage_one: The autoencoder's configuration.
        weights: Folder of its phase.
        clap: Folder or name of the CLAP model, or ``None``.
    """

    stage_one: StageOneConfig
    weights: Path
    clap: str | None = None

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.stage_one.sample_rate

    @property
    def coarsest(self) -> str:
        """Name of the coarsest level."""
        return self.stage_one.levels[0].name

    @property
    def frame_seconds(self) -> float:
        """Length of a frame of the coarsest level."""
        return self.stage_one.hop(self.coarsest) / self.sample_rate

    def identity(self) -> dict[str, str]:
        """Return the hash of the autoencoder's weights, and of CLAP's: not its name, it may be moved, or change."""
        own = {"weights": weights_sha256(self.weights)}
        return own if self.clap is None else own | {"clap": weights_sha256(ClapEmbedding(self.clap).state_dict())}

    def open(self) -> Encoder:
        """Build both networks."""
        model = self.load()
        clap = None if self.clap is None else ClapEmbedding(self.clap).to(next(model.parameters()).device)
        return partial(encode_track, model, clap=clap)

    def load(self) -> HQVAE:
        """Return the autoencoder as it will be stored, on the GPU if there is one, frozen."""
        return as_stored(HQVAE(self.stage_one), self.weights)


@dataclass(frozen=True)
class SonidoRecipe(Recipe):
    """How a SoniDo model is pre-trained.

    Attributes:
        config: The pre-training.
    """

    config: SonidoPretrainingConfig
    first = _STAGE_ONE

    @property
    def later(self) -> Sequence[str]:
        """The transformers, coarse to fine, and the waveform decoder."""
        phases = [f"{_STAGE_TWO}/{prior.level}" for prior in self.config.model.priors]
        return phases if self.config.waveform_decoder is None else [*phases, _WAVEFORM_DECODER]

    def check(self) -> None:
        """Refuse a CLAP model that is not there, or whose embeddings are not as wide as the transformers want.

        Raises:
            ConfigError: One line.
        """
        name = self.config.tokens.clap
        if name is None:
            return
        dim = ClapEmbedding(name).dim
        for prior in self.config.model.priors:
            if prior.condition_dim not in (None, dim):
                raise ConfigError(
                    f"prior {prior.level}: expected condition_dim {dim}, as {name} gives, found "
                    f"{prior.condition_dim}; change it, or tokens.clap"
                )

    def tokenizer(self, folder: Path) -> SonidoTokenizer:
        """Return the finished stage one."""
        return SonidoTokenizer(self.config.model.stage_one, phase_folder(folder, _STAGE_ONE), self.config.tokens.clap)

    def phase(self, job: PhaseJob) -> PhaseRun:
        """Build a phase."""
        if job.phase == _STAGE_ONE:
            return self._stage_one(job)
        if job.phase == _WAVEFORM_DECODER:
            return self._waveform_decoder(job)
        return self._stage_two(job, job.phase.rpartition("/")[2])

    def assembled(self, folder: Path) -> Sonido:
        """Put the trained parts together."""
        model = Sonido(self.config.model)
        restore(model.stage_one, phase_folder(folder, _STAGE_ONE))
        for prior in self.config.model.priors:
            restore(model.prior(prior.level), phase_folder(folder, f"{_STAGE_TWO}/{prior.level}"))
        if model.waveform_decoder is not None:
            restore(model.waveform_decoder, phase_folder(folder, _WAVEFORM_DECODER))
        return model

    def _stage_one(self, job: PhaseJob) -> PhaseRun:
        config, training = self.config.model.stage_one, self.config.stage_one
        model = HQVAE(config)
        module = StageOne(model, training, self.config.seed)
        data, audio = audio_batches(job, training, config.sample_rate, model.common_hop, 2 * self.config.seed)
        if not (phase_folder(job.folder, _STAGE_ONE) / "last.ckpt").is_file():
            module.initialise(list(islice(data.batches(), training.initial_batches)))
        settings = {"audio": audio, "model": plain(config), "training": plain(training)}
        seconds = training.samples(config.sample_rate, model.common_hop) / config.sample_rate
        return phase_run(job, module, data, settings, seconds)

    def _waveform_decoder(self, job: PhaseJob) -> PhaseRun:
        training, architecture = self.config.waveform_decoder, self.config.model.waveform_decoder
        assert training is not None  # SonidoPretrainingConfig saw to it
        assert architecture is not None
        tokenizer = self.tokenizer(job.folder)
        autoencoder, rate = tokenizer.load(), tokenizer.sample_rate
        hop = tokenizer.stage_one.front_end.hop_length
        decoder = WaveformDecoder(architecture, autoencoder.front_end.channels, hop)
        module = WaveformStage(decoder, autoencoder, training, self.config.seed)
        # draws of its own, not those of stage one
        data, _ = audio_batches(job, training, rate, autoencoder.common_hop, 2 * self.config.seed + 1)
        weights = weights_sha256(tokenizer.weights)
        settings = {"stage_one": weights, "model": plain(architecture), "training": plain(training)}
        return phase_run(job, module, data, settings, training.samples(rate, autoencoder.common_hop) / rate)

    def _stage_two(self, job: PhaseJob, level: str) -> PhaseRun:
        architecture = self.config.model.prior(level)
        training = self.config.stage_two[architecture.level]
        tokenizer = self.tokenizer(job.folder)
        prior = build_prior(architecture, tokenizer.stage_one)
        prior.initialise_embeddings(tokenizer.load().cpu().codes(level))
        module = StageTwo(prior, training, self.config.seed)
        wanted = [level] if architecture.above is None else [level, architecture.above]
        ratios = {name: self.config.ratio(name) for name in wanted}
        window, conditioned = architecture.context // ratios[level], architecture.condition_dim is not None
        data = token_batches(job, training, window, ratios, tokenizer.coarsest, conditioned)
        assert job.tokens is not None  # token_batches saw to it
        settings = {"tokens": job.tokens.name, "model": plain(architecture), "training": plain(training)}
        seconds = architecture.context * tokenizer.stage_one.hop(level) / tokenizer.sample_rate
        return phase_run(job, module, data, settings, seconds)
