"""Pre-training of a Jukebox: a VQ-VAE, then a prior for each level of its codes.

<folder>/vqvae, priors/<name>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from sonido_bench.foundation.configuration import plain
from sonido_bench.foundation.jukebox.long_audio import encode_long
from sonido_bench.foundation.jukebox.model import Jukebox
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_training import PriorStage
from sonido_bench.foundation.jukebox.vqvae import VQVAE
from sonido_bench.foundation.jukebox.vqvae_config import VQVAEConfig
from sonido_bench.foundation.jukebox.vqvae_training import VQVAEStage
from sonido_bench.foundation.tokens import smallest_type
from sonido_bench.launch.phase import PhaseRun, restore
from sonido_bench.launch.phases import PhaseJob, audio_batches, phase_folder, phase_run, token_batches
from sonido_bench.launch.pretraining_config import JukeboxPretrainingConfig
from sonido_bench.launch.recipe import Recipe
from sonido_bench.launch.token_extraction import Encoder, as_stored, weights_sha256

__all__ = ["JukeboxRecipe", "JukeboxTokenizer"]

_VQVAE, _PRIORS = "vqvae", "priors"


@dataclass(frozen=True)
class JukeboxTokenizer:
    """A finished VQ-VAE; see ``Tokenizer``. Its levels are called ``level_0`` (the finest) and so on.

    Attributes:
        config: Of the VQ-VAE.
        weights: Folder of its phase.
    """

    config: VQVAEConfig
    weights: Path

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.config.sample_rate

    @property
    def coarsest(self) -> str:
        """Name of the coarsest level."""
        return _level(self.config.levels - 1)

    @property
    def frame_seconds(self) -> float:
        """Length of a code of the coarsest level."""
        return self.config.hop(self.config.levels - 1) / self.sample_rate

    def identity(self) -> dict[str, str]:
        """Return the hash of the VQ-VAE's weights."""
        return {"weights": weights_sha256(self.weights)}

    def open(self) -> Encoder:
        """Build the VQ-VAE, as it will be stored; what is left of a recording behind its last whole code is let go."""
        model = as_stored(VQVAE(self.config), self.weights)
        device, hop = next(model.parameters()).device, model.common_hop
        smallest = smallest_type(self.config.codebook_size or 0)  # JukeboxConfig saw to it that there are codes

        def encode(audio: Tensor) -> dict[str, np.ndarray]:
            whole = audio[None, : len(audio) // hop * hop].to(device)
            codes = {_level(level): encode_long(model, whole, level)[0] for level in range(model.levels)}
            return {level: found[:, None].cpu().numpy().astype(smallest) for level, found in codes.items()}

        return encode


@dataclass(frozen=True)
class JukeboxRecipe(Recipe):
    """How a Jukebox is pre-trained.

    Attributes:
        config: The pre-training.
    """

    config: JukeboxPretrainingConfig
    first = _VQVAE

    @property
    def later(self) -> Sequence[str]:
        """The priors, top first."""
        return [f"{_PRIORS}/{prior.name}" for prior in reversed(self.config.model.priors)]

    def check(self) -> None:
        """Refuse nothing: the configuration has seen to all."""

    def tokenizer(self, folder: Path) -> JukeboxTokenizer:
        """Return the finished VQ-VAE."""
        return JukeboxTokenizer(self.config.model.vqvae, phase_folder(folder, _VQVAE))

    def phase(self, job: PhaseJob) -> PhaseRun:
        """Build a phase."""
        return self._vqvae(job) if job.phase == _VQVAE else self._prior(job, job.phase.rpartition("/")[2])

    def assembled(self, folder: Path) -> Jukebox:
        """Put the trained parts together."""
        model = Jukebox(self.config.model)
        restore(model.vqvae, phase_folder(folder, _VQVAE))
        for prior, config in zip(model.priors, self.config.model.priors, strict=True):
            restore(prior, phase_folder(folder, f"{_PRIORS}/{config.name}"))
        return model

    def _vqvae(self, job: PhaseJob) -> PhaseRun:
        config, training = self.config.model.vqvae, self.config.vqvae
        model = VQVAE(config)
        module = VQVAEStage(model, training, self.config.seed)
        data, audio = audio_batches(job, training, config.sample_rate, model.common_hop, self.config.seed)
        if not (phase_folder(job.folder, _VQVAE) / "last.ckpt").is_file():
            module.initialise(list(islice(data.batches(), training.initial_batches)))
        settings = {"audio": audio, "model": plain(config), "training": plain(training)}
        seconds = training.samples(config.sample_rate, model.common_hop) / config.sample_rate
        return phase_run(job, module, data, settings, seconds)

    def _prior(self, job: PhaseJob, name: str) -> PhaseRun:
        model, training = self.config.model, self.config.priors[name]
        number = [prior.name for prior in model.priors].index(name)
        config, tokenizer = model.priors[number], self.tokenizer(job.folder)
        above = None if config.upsampler is None else _level(number + 1)
        top_hop = model.vqvae.hop(model.vqvae.levels - 1)
        module = PriorStage(Prior(config), training, _level(number), above, top_hop, self.config.seed)
        ratios = {_level(level): model.ratio(level) for level in (number, number + 1) if level < len(model.priors)}
        window = config.context // model.ratio(number)
        data = token_batches(job, training, window, ratios, tokenizer.coarsest, place=True)
        assert job.tokens is not None  # token_batches saw to it
        settings = {"tokens": job.tokens.name, "model": plain(config), "training": plain(training)}
        seconds = config.context * config.hop_length / config.sample_rate
        return phase_run(job, module, data, settings, seconds)


def _level(number: int) -> str:
    return f"level_{number}"
