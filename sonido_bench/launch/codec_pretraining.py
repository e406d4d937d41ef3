"""Pre-training of a codec and of the language model over its codes.

<folder>/codec, language_model
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from sonido_bench.foundation.codec.config import CodecConfig
from sonido_bench.foundation.codec.discriminator import MultiScaleSTFTDiscriminator
from sonido_bench.foundation.codec.independence import IndependenceLoss
from sonido_bench.foundation.codec.language_model import LanguageModel
from sonido_bench.foundation.codec.language_model_training import LanguageModelPhase
from sonido_bench.foundation.codec.long_audio import encode_long
from sonido_bench.foundation.codec.model import Codec
from sonido_bench.foundation.codec.music_codec import MusicCodec
from sonido_bench.foundation.codec.training import CodecStage
from sonido_bench.foundation.configuration import plain
from sonido_bench.foundation.tokens import smallest_type
from sonido_bench.launch.phase import PhaseRun, restore
from sonido_bench.launch.phases import PhaseJob, audio_batches, phase_folder, phase_run, token_batches
from sonido_bench.launch.pretraining_config import CodecPretrainingConfig
from sonido_bench.launch.recipe import Recipe
from sonido_bench.launch.token_extraction import Encoder, as_stored, weights_sha256

__all__ = ["CodecRecipe", "CodecTokenizer"]

_CODEC, _LANGUAGE_MODEL = "codec", "language_model"
_CODES = "codes"  # the one level of tokens, as the language model's batches call it


@dataclass(frozen=True)
class CodecTokenizer:
    """A finished codec; see ``Tokenizer``.

    Attributes:
        config: Of the codec.
        weights: Folder of its phase.
    """

    config: CodecConfig
    weights: Path
    coarsest = _CODES

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.config.sample_rate

    @property
    def frame_seconds(self) -> float:
        """Length of a frame."""
        return 1 / self.config.frame_rate

    def identity(self) -> dict[str, str]:
        """Return the hash of the codec's weights."""
        return {"weights": weights_sha256(self.weights)}

    def open(self) -> Encoder:
        """Build the codec, as it will be stored."""
        codec = as_stored(Codec(self.config), self.weights)
        device, smallest = next(codec.parameters()).device, smallest_type(codec.codebook_size)

        def encode(audio: Tensor) -> dict[str, np.ndarray]:
            return {_CODES: encode_long(codec, audio[None].to(device))[0].cpu().numpy().astype(smallest)}

        return encode


@dataclass(frozen=True)
class CodecRecipe(Recipe):
    """How a codec and its language model are pre-trained.

    Attributes:
        config: The pre-training.
    """

    config: CodecPretrainingConfig
    first = _CODEC

    @property
    def later(self) -> Sequence[str]:
        """The language model."""
        return [_LANGUAGE_MODEL]

    def check(self) -> None:
        """Refuse nothing: the configuration has seen to all."""

    def tokenizer(self, folder: Path) -> CodecTokenizer:
        """Return the finished codec."""
        return CodecTokenizer(self.config.model.codec, phase_folder(folder, _CODEC))

    def phase(self, job: PhaseJob) -> PhaseRun:
        """Build a phase."""
        return self._codec(job) if job.phase == _CODEC else self._language_model(job)

    def assembled(self, folder: Path) -> MusicCodec:
        """Put both parts together."""
        model = MusicCodec(self.config.model)
        restore(model.codec, phase_folder(folder, _CODEC))
        restore(model.language_model, phase_folder(folder, _LANGUAGE_MODEL))
        return model

    def _codec(self, job: PhaseJob) -> PhaseRun:
        config, training = self.config.model.codec, self.config.codec
        data, audio = audio_batches(job, training, config.sample_rate, config.hop_length, self.config.seed)
        settings = {
            "audio": audio,
            "model": plain(config),
            "training": plain(training),
            "adversary": self.config.adversary and plain(self.config.adversary),
            "independence": self.config.independence and plain(self.config.independence),
        }
        seconds = training.samples(config.sample_rate, config.hop_length) / config.sample_rate
        return phase_run(job, self._codec_stage(), data, settings, seconds)

    def _codec_stage(self) -> CodecStage:
        config, adversary, independence = self.config, self.config.adversary, self.config.independence
        codec = Codec(config.model.codec)
        discriminator = MultiScaleSTFTDiscriminator(adversary.n_ffts, adversary.filters) if adversary else None
        if independence is None:
            return CodecStage(codec, config.codec, config.seed, discriminator=discriminator)
        return CodecStage(
            codec,
            config.codec,
            config.seed,
            discriminator=discriminator,
            independence=IndependenceLoss(independence.estimator, delays=independence.delays),
            independence_weight=independence.weight,
            independence_start=independence.start,
            independence_ramp=independence.ramp,
            stream=independence.stream,
        )

    def _language_model(self, job: PhaseJob) -> PhaseRun:
        config, training = self.config.model.language_model, self.config.language_model
        module = LanguageModelPhase(LanguageModel(config), training, self.config.seed)
        data = token_batches(job, training, config.context, {_CODES: 1}, _CODES)
        assert job.tokens is not None  # token_batches saw to it
        settings = {"tokens": job.tokens.name, "model": plain(config), "training": plain(training)}
        return phase_run(job, module, data, settings, config.context / self.config.model.codec.frame_rate)
