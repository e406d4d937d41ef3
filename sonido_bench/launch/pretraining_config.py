"""A pre-training as a YAML file."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sonido_bench.datamodules.augmentation import AugmentationConfig
from sonido_bench.datamodules.recordings import AudioConfig
from sonido_bench.errors import ConfigError
from sonido_bench.foundation.configuration import parse_dataclass, read_mapping
from sonido_bench.foundation.sonido.config import LevelName, SonidoConfig
from sonido_bench.foundation.sonido.stage_one import StageOneTraining, WaveformTraining
from sonido_bench.foundation.sonido.stage_two import StageTwoTraining

__all__ = ["CardConfig", "PretrainingConfig", "TokensConfig", "TrainerConfig", "load_pretraining"]


@dataclass(frozen=True)
class TokensConfig:
    """How the audio becomes tokens.

    Attributes:
        copies: Versions of each training recording; the first is as it is, the others are augmented.
        tracks_per_shard: Recordings of a file, which is what an interruption loses at most.
        clap: Folder or name of the CLAP model whose embeddings of the audio condition the transformers that have a
            ``condition_dim``; see ``ClapEmbedding``.
    """

    copies: int = 2
    tracks_per_shard: int = 32
    clap: str | None = None

    def __post_init__(self) -> None:
        """Refuse nothing at all."""
        if self.copies < 1 or self.tracks_per_shard < 1:
            raise ConfigError(f"tokens: expected at least 1 of each, got {self.copies} and {self.tracks_per_shard}")


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
class PretrainingConfig:
    """A pre-training, from nothing to a model folder.

    Attributes:
        model: What is trained.
        data: Its audio.
        stage_one: How the autoencoder is trained.
        stage_two: Level to how its transformer is trained, for all levels that have one.
        augmentation: What happens to training audio, also to that of the tokens.
        tokens: How the audio becomes tokens.
        waveform_decoder: How the waveform decoder is trained, where the model has one.
        trainer: Where it runs.
        seed: Of all weights, batches and noise; the music has its own.
        card: Texts of the model card.
    """

    model: SonidoConfig
    data: AudioConfig
    stage_one: StageOneTraining
    stage_two: dict[LevelName, StageTwoTraining]
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    waveform_decoder: WaveformTraining | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    card: CardConfig = field(default_factory=CardConfig)

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

    def at(self, root: Path) -> "PretrainingConfig":
        """Return the same with the audio in another place."""
        if self.data.rendered is not None:
            return replace(self, data=AudioConfig(rendered=replace(self.data.rendered, root=str(root))))
        assert self.data.folder is not None  # AudioConfig saw to it
        return replace(self, data=AudioConfig(folder=replace(self.data.folder, root=str(root))))


def load_pretraining(path: Path, changes: Sequence[str] = ()) -> PretrainingConfig:
    """Read a pre-training.

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
    return parse_dataclass(PretrainingConfig, values, str(path))


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
