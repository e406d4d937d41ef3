"""A pre-training as a YAML file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from sonido_bench.datamodules.augmentation import AugmentationConfig
from sonido_bench.datamodules.recordings import AudioConfig
from sonido_bench.errors import ConfigError
from sonido_bench.foundation.audio_phase import AudioTraining
from sonido_bench.foundation.codec.music_codec import MusicCodecConfig
from sonido_bench.foundation.codec.training import AdversaryConfig, CodecTraining, IndependenceConfig
from sonido_bench.foundation.configuration import parse_dataclass, read_mapping
from sonido_bench.foundation.jukebox.model import JukeboxConfig
from sonido_bench.foundation.jukebox.vqvae_training import VQVAETraining
from sonido_bench.foundation.sonido.config import LevelName, SonidoConfig
from sonido_bench.foundation.sonido.stage_one import StageOneTraining
from sonido_bench.foundation.token_phase import TokenTraining

__all__ = [
    "CardConfig",
    "CodecCardConfig",
    "CodecPretrainingConfig",
    "JukeboxCardConfig",
    "JukeboxPretrainingConfig",
    "PretrainingConfig",
    "SonidoPretrainingConfig",
    "SonidoTokensConfig",
    "TokensConfig",
    "TrainerConfig",
    "load_pretraining",
]


@dataclass(frozen=True)
class TokensConfig:
    """How the audio becomes tokens.

    Attributes:
        copies: Versions of each training recording; the first is as it is, the others are augmented.
        tracks_per_shard: Recordings of a file, which is what an interruption loses at most.
    """

    copies: int = 2
    tracks_per_shard: int = 32

    def __post_init__(self) -> None:
        """Refuse nothing at all."""
        if self.copies < 1 or self.tracks_per_shard < 1:
            raise ConfigError(f"tokens: expected at least 1 of each, got {self.copies} and {self.tracks_per_shard}")


@dataclass(frozen=True)
class SonidoTokensConfig(TokensConfig):
    """The same for SoniDo.

    Attributes:
        clap: Folder or name of the CLAP model whose embeddings of the audio condition the transformers that have a
            ``condition_dim``; see ``ClapEmbedding``.
    """

    clap: str | None = None


@dataclass(frozen=True)
class TrainerConfig:
    """Where it runs; passed to Lightning's trainer.

    Attributes:
        devices: GPUs, or on a machine without one processes; ``-1``: all GPUs.
        nodes: Machines.
        strategy: For example ``ddp`` or ``fsdp``.
        precision: ``None``: ``bf16-mixed`` on a GPU, else ``32-true``.
        threads: Of a training process on a CPU.
    """

    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str | None = None
    threads: int = 1


@dataclass(frozen=True)
class CardConfig:
    """What the model card says besides what the run itself knows; see ``ModelCard``."""

    description: str = "A SoniDo model."
    licence: str = "Apache-2.0"
    citation: str = "Liao et al. (2024), Music Foundation Model as Generic Booster, arXiv:2411.01135."
    limits: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodecCardConfig(CardConfig):
    """The same for a codec with its language model."""

    description: str = "A neural audio codec, and a language model over its codes."
    citation: str = (
        "Copet et al. (2023), Simple and Controllable Music Generation, arXiv:2306.05284; Défossez et al. (2022), "
        "High Fidelity Neural Audio Compression, arXiv:2210.13438."
    )


@dataclass(frozen=True)
class JukeboxCardConfig(CardConfig):
    """The same for a Jukebox."""

    description: str = "A Jukebox: a VQ-VAE of several rates, and transformers over its codes."
    citation: str = "Dhariwal et al. (2020), Jukebox: A Generative Model for Music, arXiv:2005.00341."


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(ABC):
    """What every pre-training says, whatever the family of the model.

    Attributes:
        data: The audio.
        augmentation: What happens to training audio, also to that of the tokens.
        tokens: How the audio becomes tokens.
        trainer: Where it runs.
        seed: Of all weights, batches and noise; the music has its own.
        card: Texts of the model card.
    """

    data: AudioConfig
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    card: CardConfig = field(default_factory=CardConfig)

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the model."""

    def at(self, root: Path) -> Self:
        """Return the same with the audio in another place."""
        if self.data.rendered is not None:
            return replace(self, data=AudioConfig(rendered=replace(self.data.rendered, root=str(root))))
        assert self.data.folder is not None  # AudioConfig saw to it
        return replace(self, data=AudioConfig(folder=replace(self.data.folder, root=str(root))))


@dataclass(frozen=True, kw_only=True)
class CodecPretrainingConfig(PretrainingConfig):
    """The pre-training of a codec and its language model, from nothing to a model folder.

    Attributes:
        model: What is trained.
        codec: How the codec is trained.
        language_model: How the language model is trained.
        tokens: As for all.
        adversary: The codec's discriminator; ``None``: none.
        independence: The codec's independence loss; ``None``: none.
        card: As for all.
    """

    model: MusicCodecConfig
    codec: CodecTraining
    language_model: TokenTraining
    adversary: AdversaryConfig | None = None
    independence: IndependenceConfig | None = None
    card: CardConfig = field(default_factory=CodecCardConfig)

    def __post_init__(self) -> None:
        """Refuse crops that do not fit, a condition that no data gives, and delays of other codebooks."""
        if self.codec.batch_size % self.codec.crops:
            raise ConfigError(f"codec: crops must divide batch_size, got {self.codec.crops}, {self.codec.batch_size}")
        if self.model.language_model.condition_dim is not None:
            raise ConfigError("model.language_model.condition_dim: pre-training gives no conditions: leave it out")
        codebooks = self.model.codec.quantizer.codebooks
        delays = None if self.independence is None else self.independence.delays
        if delays is not None and len(delays) != codebooks:
            raise ConfigError(f"independence.delays: expected one for each of {codebooks} codebooks, got {delays}")

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model.name


@dataclass(frozen=True, kw_only=True)
class JukeboxPretrainingConfig(PretrainingConfig):
    """The pre-training of a Jukebox, from nothing to a model folder.

    Artists, genres and lyrics are unknown in it; priors that have a place for time are told that of every window.

    Attributes:
        model: What is trained.
        vqvae: How the VQ-VAE is trained.
        priors: Name of a prior to how it is trained, for all of them.
        card: As for all.
    """

    model: JukeboxConfig
    vqvae: VQVAETraining
    priors: dict[str, TokenTraining]
    card: CardConfig = field(default_factory=JukeboxCardConfig)

    def __post_init__(self) -> None:
        """Refuse priors that are not trained, or on what no data gives, and windows that are no whole top codes."""
        modelled = [prior.name for prior in self.model.priors]
        if set(self.priors) != set(modelled):
            raise ConfigError(f"priors: expected a section for each of {modelled}, found {list(self.priors)}")
        if self.vqvae.batch_size % self.vqvae.crops:
            raise ConfigError(f"vqvae: crops must divide batch_size, got {self.vqvae.crops}, {self.vqvae.batch_size}")
        vqvae = self.model.vqvae
        if self.vqvae.samples(vqvae.sample_rate, vqvae.hop(vqvae.levels - 1)) < vqvae.linf_k:
            raise ConfigError(
                f"vqvae: segment_seconds must give linf_k ({vqvae.linf_k}) samples or more: lengthen them"
            )
        for level, prior in enumerate(self.model.priors):
            ratio = self.model.ratio(level)
            if prior.lyrics is not None:
                raise ConfigError(f"prior {prior.name}: pre-training gives no lyrics: leave them out")
            if prior.context % ratio:
                raise ConfigError(f"prior {prior.name}: context must be a multiple of {ratio}, got {prior.context}")

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model.name


@dataclass(frozen=True, kw_only=True)
class SonidoPretrainingConfig(PretrainingConfig):
    """The pre-training of a SoniDo model, from nothing to a model folder.

    Attributes:
        model: What is trained.
        stage_one: How the autoencoder is trained.
        stage_two: Level to how its transformer is trained, for all levels that have one.
        tokens: As for all.
        waveform_decoder: How the waveform decoder is trained, where the model has one.
    """

    model: SonidoConfig
    stage_one: StageOneTraining
    stage_two: dict[LevelName, TokenTraining]
    tokens: SonidoTokensConfig = field(default_factory=SonidoTokensConfig)
    waveform_decoder: AudioTraining | None = None

    def __post_init__(self) -> None:
        """Refuse a model whose parts are not all trained, and windows that are not whole frames of all levels."""
        self._check_conditions()
        modelled = [prior.level for prior in self.model.priors]
        if set(self.stage_two) != set(modelled):
            raise ConfigError(f"stage_two: expected a section for each of {modelled}, found {list(self.stage_two)}")
        if (self.waveform_decoder is None) != (self.model.waveform_decoder is None):
            raise ConfigError("waveform_decoder: expected in both model and training, or in neither")
        for prior in self.model.priors:
            ratio = self.ratio(prior.level)
            if prior.context % ratio:
                raise ConfigError(f"prior {prior.level}: context must be a multiple of {ratio}, got {prior.context}")
        for name, training in {"stage_one": self.stage_one, "waveform_decoder": self.waveform_decoder}.items():
            if training is not None and training.batch_size % training.crops:
                raise ConfigError(f"{name}: crops must divide batch_size, got {training.crops}, {training.batch_size}")

    def _check_conditions(self) -> None:
        conditioned = [prior.level for prior in self.model.priors if prior.condition_dim is not None]
        if conditioned and self.tokens.clap is None:
            raise ConfigError(
                f"priors {conditioned} have a condition_dim: expected the CLAP model that gives the embeddings as "
                "tokens.clap, found none"
            )
        if self.tokens.clap is not None and not conditioned:
            raise ConfigError(
                f"tokens.clap: expected a prior with a condition_dim, found none; add one, or leave {self.tokens.clap} "
                "out"
            )

    def ratio(self, level: str) -> int:
        """Return the frames of a level in one frame of the coarsest."""
        levels = self.model.stage_one
        return levels.levels[0].stride // levels.level(level).stride

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model.name


def load_pretraining(
    path: Path, changes: Sequence[str] = ()
) -> SonidoPretrainingConfig | CodecPretrainingConfig | JukeboxPretrainingConfig:
    """Read a pre-training. Which family of models it is for follows from its sections.

    Args:
        path: The file.
        changes: Entries that are others than in the file, as ``stage_two.top.steps=400``; an entry of a list goes by
            its place, ``model.priors.0.depth=6``; values are YAML.

    Raises:
        ConfigError: If the file is missing, or has a missing, unknown or wrong entry; one line.
    """
    values = read_mapping(path)
    for change in changes:
        _change(values, change)
    if sum(section in values for section in ("stage_one", "vqvae", "codec")) != 1:
        raise ConfigError(
            f"{path}: expected either a section stage_one, of a SoniDo model, or a section vqvae, of a Jukebox, or a "
            f"section codec, of a codec with a language model; found {', '.join(values) or 'no section'}"
        )
    if "codec" in values:
        return parse_dataclass(CodecPretrainingConfig, values, str(path))
    if "vqvae" in values:
        return parse_dataclass(JukeboxPretrainingConfig, values, str(path))
    return parse_dataclass(SonidoPretrainingConfig, values, str(path))


def _change(values: Any, change: str) -> None:
    """Set an entry of nested mappings and lists, e.g. ``stage_two.top.steps=400``; what holds it must be there.

    Raises:
        ConfigError: If the change is not of this form, or leads nowhere.
    """
    import yaml

    path, equals, value = change.partition("=")
    *parents, last = path.split(".")
    if not equals or not last:
        raise ConfigError(f"expected a change as stage_two.top.steps=400, got {change!r}")
    try:
        for name in parents:
            values = values[int(name) if isinstance(values, list) else name]
        values[int(last) if isinstance(values, list) else last] = yaml.safe_load(value)
    except (KeyError, IndexError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"{change!r} leads nowhere in this file: {' '.join(str(error).split())}") from error
