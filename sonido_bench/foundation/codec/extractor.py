"""Features of a codec: what its language model makes of the audio's own codes, as MusicGen's activations are used."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec
from sonido_bench.features.windows import Window, kept_from_the_earlier, split
from sonido_bench.foundation.checkpoint import load_card, shipped_folder
from sonido_bench.foundation.codec.checkpoint import load_checkpoint
from sonido_bench.foundation.codec.language_model import LanguageModelConfig
from sonido_bench.foundation.codec.music_codec import MusicCodec
from sonido_bench.foundation.codec.patterns import CodePattern

__all__ = ["CodecExtractor", "CodecTiny", "CodecTinyTokenizer", "Source"]

Source = Literal["language_model", "codes", "latents"]

_OVERLAP = 0.25  # of the context: what a frame has before it at least, but for those at the start


class CodecExtractor(Extractor):
    """Intermediate activations of a language model that reads the audio's own codes (teacher forcing).

    Frame ``i`` is the state after all codes of frame ``i`` were read. With delayed codebooks, some codes of later
    frames have been read by then too: codebook ``k`` of ``delay`` is ``max(d) - d[k]`` frames ahead. A frame is centred
    where the codes read last lie on average, which for four codebooks delayed by 0 to 3 is ``(i + 2) * hop`` samples;
    codes and latents lie at ``(i + 0.5) * hop``. Streams are called ``layer_4`` and so on, ``codes`` or ``latents``.

    Audio of any length is run in windows inside: the language model sees its context, of which a quarter at least
    precedes every frame but the first ones.

    Args:
        checkpoint: A folder as ``save_checkpoint`` writes it.
        layers: Blocks whose output is given, from 1; 0 is the input of the first. ``None``: the model's default.
        source: ``language_model``: the activations; ``codes``: the codec's vectors for the codes, side by side, without
            the language model; ``latents``: what they quantise. The last two know no layers.

    Raises:
        ConfigError: If the model has no such layer.
        DataError: If the checkpoint is missing, broken or hostile.
    """

    window_seconds = None  # the model cuts audio up itself

    def __init__(
        self, checkpoint: Path, layers: Sequence[int] | None = None, source: Source = "language_model"
    ) -> None:
        super().__init__()
        model, card = load_checkpoint(checkpoint), load_card(checkpoint)
        self.layers = tuple(model.config.features.layers if layers is None else layers)
        model.config.check_layers(self.layers)
        self.source = source
        self.model = _needed(model, source)
        self.card = ExtractorCard(card.name, card.description, "Apache-2.0", card.licence, card.citation)
        self.spec = FeatureSpec(model.sample_rate, self._streams())
        self.min_samples = model.hop_length

    @property
    def redrawn(self) -> nn.Module:
        """The language model: a control of its reads the same codes, a random codec gives hardly any."""
        return self.model.language_model if self.source == "language_model" else self

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Return all streams of ``(batch, samples)``."""
        if self.source == "latents":
            return {"latents": self.model.latents(audio)}
        codes = self.model.encode(audio)
        if self.source == "codes":
            return {"codes": self.model.codec.embed(codes)}
        return {_stream(layer): hidden for layer, hidden in self._hidden(codes).items()}

    def _hidden(self, codes: Tensor) -> dict[int, Tensor]:
        """Run the language model over codes, one window of its context after another."""
        parts: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        for window in _windows(self.model.config.language_model, codes.shape[1]):
            read = self.model.language_model.hidden(codes[:, window.start : window.end], self.layers)
            for layer, hidden in read.items():
                parts[layer].append(hidden[:, window.kept_frames(1)])
        return {layer: torch.cat(hidden, dim=1) for layer, hidden in parts.items()}

    def _streams(self) -> dict[str, StreamSpec]:
        config, hop = self.model.config, self.model.hop_length
        middle = hop / 2 / self.model.sample_rate
        dim = config.codec.seanet.dimension
        if self.source == "latents":
            return {"latents": StreamSpec(dim, hop, middle)}
        if self.source == "codes":
            return {"codes": StreamSpec(config.codec.quantizer.codebooks * dim, hop, middle)}
        read = middle + _frames_ahead(config.language_model)[0] * hop / self.model.sample_rate
        return {_stream(layer): StreamSpec(config.language_model.width, hop, read) for layer in self.layers}


class CodecTiny(CodecExtractor):
    """The codec with its language model that comes with the package.

    Args:
        layers: As ``CodecExtractor`` has it.

    Raises:
        DataError: If the package came without its weights.
    """

    def __init__(self, layers: Sequence[int] | None = None) -> None:
        super().__init__(shipped_folder("codec-tiny"), layers)


class CodecTinyTokenizer(CodecExtractor):
    """Control: the code embeddings of ``CodecTiny``, without its language model.

    Raises:
        DataError: If the package came without its weights.
    """

    def __init__(self) -> None:
        super().__init__(shipped_folder("codec-tiny"), None, "codes")
        description = "Code embeddings of codec-tiny without its language model, a control."
        self.card = replace(self.card, name=f"{self.card.name}@tokenizer", description=description)


def _needed(model: MusicCodec, source: Source) -> MusicCodec:
    """Drop what the features do not need, so that it takes no memory and no part in the fingerprint."""
    del model.codec.decoder
    if source != "language_model":
        del model.language_model
    if source == "latents":
        del model.codec.quantizer
    return model


def _frames_ahead(config: LanguageModelConfig) -> tuple[float, int]:
    """Return how far the codes lie ahead of a frame that are on its last step: on average, and at most.

    Of ``coarse_first`` the first codebook, which has been read to its end by then, does not count.
    """
    frame = config.codebooks + max(config.delays or (0,))  # one with as many before it as any delay
    places = CodePattern(config.pattern, config.codebooks, config.delays).places(2 * frame + 1)
    ahead = [int(place) - frame for place in (places == places[frame].max()).nonzero()[:, 0]]
    return sum(ahead) / len(ahead), max(ahead)


def _windows(config: LanguageModelConfig, frames: int) -> list[Window]:
    """Windows of the context, in frames, of which what is kept has read its codes ahead."""
    ahead = _frames_ahead(config)[1]
    overlap = max(int(_OVERLAP * config.context), ahead)
    return kept_from_the_earlier(split(frames, config.context, overlap, 1), ahead)


def _stream(layer: int) -> str:
    return f"layer_{layer}"
