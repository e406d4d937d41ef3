"""SoniDo features: what the transformers make of the audio's own tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec
from sonido_bench.features.windows import Window, kept_from_the_earlier, split
from sonido_bench.foundation.checkpoint import load_card, shipped_folder
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint
from sonido_bench.foundation.sonido.config import LevelName, PriorConfig, SonidoConfig
from sonido_bench.foundation.sonido.model import Sonido

__all__ = ["SonidoExtractor", "SonidoTiny", "SonidoTinyTokenizer", "Source"]

Source = Literal["prior", "tokens", "latents"]

_OVERLAP = 0.25  # of the context: what a frame has before it at least, but for those at the start


class SonidoExtractor(Extractor):
    """Intermediate activations of a SoniDo model that reads the audio's own tokens (teacher forcing).

    Liao et al. (2024), section 3. Frame ``i`` of a level is the state after that level's token ``i`` was read, and is
    centred at ``(i + 0.5) * hop`` samples. One layer gives the streams ``top`` and ``mid``; several give ``top_2``,
    ``top_4`` and so on. Transformers that can be given an audio embedding are given the learned "none".

    Audio of any length is run in windows inside, each transformer in windows of its own context: at 44.1 kHz, mid sees
    6 s at a time and top 24 s. A quarter of the context at least precedes every frame but the first ones.

    Args:
        checkpoint: A folder as ``save_checkpoint`` writes it.
        levels: Whose features are given, coarse to fine; ``None``: the model's default.
        layers: Blocks whose output is given, from 1; 0 is the input of the first. ``None``: the model's default.
        pool: Average finer levels onto the frames of the coarsest that is asked for; ``None``: the model's default.
        source: ``prior``: the activations; ``tokens``: the embeddings of the stage-1 codes, without transformers;
            ``latents``: what stage 1 gives before it is quantised. The last two know no layers.

    Raises:
        ConfigError: If the model has no such level or layer.
        DataError: If the checkpoint is missing, broken or hostile.
    """

    window_seconds = None  # the model cuts audio up itself

    def __init__(
        self,
        checkpoint: Path,
        levels: Sequence[LevelName] | None = None,
        layers: Sequence[int] | None = None,
        pool: bool | None = None,
        source: Source = "prior",
    ) -> None:
        super().__init__()
        model, card = load_checkpoint(checkpoint), load_card(checkpoint)
        self.levels = _levels(model.config, levels, source)
        self.layers = _layers(model.config, self.levels, layers) if source == "prior" else ()
        self.pool = model.config.features.pool if pool is None else pool
        self.source = source
        self.model = _needed(model, self.levels, source)
        self.card = ExtractorCard(card.name, card.description, "Apache-2.0", card.licence, card.citation)
        self.spec = FeatureSpec(model.sample_rate, self._streams())
        self.min_samples = model.stage_one.common_hop

    @property
    def redrawn(self) -> nn.Module:
        """The transformers: a control of theirs reads the same tokens, a random autoencoder gives hardly any."""
        return self.model.priors if self.source == "prior" else self

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Return all streams of ``(batch, samples)``."""
        return {
            _stream(level, layer, self.layers): self._pooled(level, hidden)
            for level, by_layer in self._activations(audio).items()
            for layer, hidden in by_layer.items()
        }

    def _activations(self, audio: Tensor) -> dict[LevelName, dict[int, Tensor]]:
        """Level to layer to ``(batch, frames, dim)``; what has no layers stands at 0."""
        finest = self.levels[-1]
        if self.source == "latents":
            latents = self.model.latents(audio, finest)
            return {level: {0: latents[level]} for level in self.levels}
        tokens = self.model.encode(audio, finest)
        if self.source == "tokens":
            return {level: {0: self.model.stage_one.embed(level, tokens[level])} for level in self.levels}
        return {level: self._hidden(level, tokens) for level in self.levels}

    def _hidden(self, level: LevelName, tokens: Mapping[LevelName, Tensor]) -> dict[int, Tensor]:
        """Run a transformer over tokens, one window of its context after another."""
        prior = self.model.prior(level)
        above = prior.config.above
        ratio = tokens[level].shape[1] // tokens[above].shape[1] if above else 1
        parts: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        for window in _windows(prior.config, tokens[level].shape[1], ratio):
            frames = tokens[level][:, window.start : window.end]
            coarser = tokens[above][:, window.start // ratio : window.end // ratio] if above else None
            for layer, hidden in prior.hidden(frames, self.layers, above=coarser).items():
                parts[layer].append(hidden[:, window.kept_frames(1)])
        return {layer: torch.cat(hidden, dim=1) for layer, hidden in parts.items()}

    def _pooled(self, level: str, hidden: Tensor) -> Tensor:
        ratio = self._hop(level) // self.model.config.stage_one.hop(level)
        return hidden.reshape(len(hidden), -1, ratio, hidden.shape[2]).mean(dim=2) if ratio > 1 else hidden

    def _hop(self, level: str) -> int:
        """Samples from one frame of a level's streams to the next."""
        return self.model.config.stage_one.hop(self.levels[0] if self.pool else level)

    def _streams(self) -> dict[str, StreamSpec]:
        streams = {}
        for level in self.levels:
            dim = self.model.prior(level).config.width if self.layers else self.model.stage_one.code_dim(level)
            hop = self._hop(level)
            for layer in self.layers or (0,):
                streams[_stream(level, layer, self.layers)] = StreamSpec(dim, hop, hop / 2 / self.model.sample_rate)
        return streams


class SonidoTiny(SonidoExtractor):
    """The SoniDo model that comes with the package.

    Args:
        levels: As ``SonidoExtractor`` has it.
        layers: Likewise.
        pool: Likewise.

    Raises:
        DataError: If the package came without its weights.
    """

    def __init__(
        self,
        levels: Sequence[LevelName] | None = None,
        layers: Sequence[int] | None = None,
        pool: bool | None = None,
    ) -> None:
        super().__init__(shipped_folder("sonido-tiny"), levels, layers, pool)


class SonidoTinyTokenizer(SonidoExtractor):
    """Control: the stage-1 code embeddings of ``SonidoTiny``, without its transformers.

    Args:
        levels: As ``SonidoExtractor`` has it.
        pool: Likewise.

    Raises:
        DataError: If the package came without its weights.
    """

    def __init__(self, levels: Sequence[LevelName] | None = None, pool: bool | None = None) -> None:
        super().__init__(shipped_folder("sonido-tiny"), levels, None, pool, "tokens")
        description = "Stage-1 code embeddings of sonido-tiny without its transformers, a control."
        self.card = replace(self.card, name=f"{self.card.name}@tokenizer", description=description)


def _levels(config: SonidoConfig, levels: Sequence[LevelName] | None, source: Source) -> tuple[LevelName, ...]:
    """Check levels and put them in order, coarse to fine."""
    modelled = [prior.level for prior in config.priors]
    having = modelled if source == "prior" else [level.name for level in config.stage_one.levels]
    asked = config.features.levels if levels is None else levels
    if not asked or not set(asked) <= set(having) or len(set(asked)) < len(asked):
        raise ConfigError(f"{config.name}: expected levels among {', '.join(having)}, got {list(asked)}")
    return tuple(level for level in having if level in asked)


def _layers(config: SonidoConfig, levels: Sequence[LevelName], layers: Sequence[int] | None) -> tuple[int, ...]:
    depth = min(config.prior(level).depth for level in levels)
    asked = tuple(config.features.layers if layers is None else layers)
    if not asked or len(set(asked)) < len(asked) or not all(0 <= layer <= depth for layer in asked):
        raise ConfigError(f"{config.name}: expected different layers from 0 to {depth}, got {list(asked)}")
    return asked


def _needed(model: Sonido, levels: Sequence[LevelName], source: Source) -> Sonido:
    """Drop what the features do not need, so that it takes no memory and no part in the fingerprint."""
    model.waveform_decoder = None
    for level in list(model.priors):
        if source != "prior" or level not in levels:
            del model.priors[level]
    return model


def _windows(config: PriorConfig, frames: int, ratio: int) -> list[Window]:
    """Windows of a transformer's context, in its frames, that begin with frames of the level above.

    A masked transformer sees both ways, and windows are cut in the middle of what they share. A causal one looks back
    alone: the frames that windows share are kept from the earlier one, which has read more.
    """
    context, overlap = (int(share * config.context) // ratio * ratio for share in (1, _OVERLAP))
    windows = split(frames, context, overlap, ratio)
    return windows if config.objective == "masked" else kept_from_the_earlier(windows)


def _stream(level: str, layer: int, layers: Sequence[int]) -> str:
    return f"{level}_{layer}" if len(layers) > 1 else level
