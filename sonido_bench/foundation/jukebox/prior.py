"""Jukebox's priors: transformers over the codes of one level, told artist, genre, time, lyrics and the level above."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox.code_model import CodeModel
from sonido_bench.foundation.jukebox.conditioner import LabelConditioner, UpsamplerConditioner
from sonido_bench.foundation.jukebox.labels import check_timing
from sonido_bench.foundation.jukebox.prior_config import LyricsConfig, PriorConfig
from sonido_bench.foundation.transformer.few_rows import few_rows_linear
from sonido_bench.foundation.transformer.sampling import SamplingConfig, sample_logits
from sonido_bench.foundation.transformer.stepping import read_prompt

__all__ = ["LyricEncoder", "Prior", "PriorConfig", "PriorLogits", "PriorLoss"]


class PriorLogits(NamedTuple):
    """What a prior predicts.

    Attributes:
        music: ``(batch, codes, vocabulary)``; with lyrics in the sequence, the common vocabulary, lyric characters
            first; otherwise the codebook.
        lyrics: ``(batch, lyric tokens, vocabulary)``: the common one, or that of the lyrics; ``None`` without lyrics.
    """

    music: Tensor
    lyrics: Tensor | None


@dataclass(frozen=True)
class PriorLoss:
    """What a batch costs.

    Attributes:
        loss: To be minimised: bits per position, lyrics counting ``loss_fraction``.
        bits_per_code: Cross-entropy of the music, mean over items and codes.
        bits_per_character: Of the lyrics likewise; 0 without lyrics.
        metrics: To be logged, by name; without gradients.
    """

    loss: Tensor
    bits_per_code: Tensor
    bits_per_character: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class _Conditions(NamedTuple):
    """All that is known of a window before its codes.

    Attributes:
        start: Start token ``(batch, 1, width)``, or ``None`` for the learned one.
        bias: Of every position ``(batch, positions, width)``, or ``None``.
        context: What ``cross`` attention looks at ``(batch, lyric tokens, width)``, or ``None``.
        lyrics: int64 ``(batch, lyric tokens)``; no columns without lyrics.
    """

    start: Tensor | None
    bias: Tensor | None
    context: Tensor | None
    lyrics: Tensor


class LyricEncoder(nn.Module):
    """A causal transformer over lyrics, whose states the music attends to, and which predicts them too.

    Args:
        config: Of the prior, with a lyric encoder.
        lyrics: Its lyrics.
    """

    def __init__(self, config: PriorConfig, lyrics: LyricsConfig) -> None:
        super().__init__()
        transformer = config.lyric_transformer()
        self.model = CodeModel(transformer, lyrics.tokens, lyrics.vocabulary, own_start=True, output="none")
        self.project = nn.Linear(transformer.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, lyrics.vocabulary, bias=False)
        for linear in (self.project, self.head):
            nn.init.normal_(linear.weight, std=0.02 * transformer.init_scale)
        nn.init.zeros_(self.project.bias)

    def forward(self, lyrics: Tensor) -> Tensor:
        """Return ``(batch, lyric tokens, width of the music)`` from int64 ``(batch, lyric tokens)``."""
        embedded = self.model.embed(lyrics[:, :-1], None)
        normalised: Tensor = self.norm(self.project(self.model.transformer(self.model.place(embedded, 0, None))))
        return normalised


class Prior(nn.Module):
    """Models the codes of one level, one after another.

    Position ``i`` has read the codes before ``i`` and predicts code ``i``; it also gets the time of code ``i``, or what
    the level above says about it. Shorter windows than ``context`` are read as the beginning of one.

    Dhariwal et al. (2020), Jukebox: A Generative Model for Music, sections 4 and 5; jukebox/prior/prior.py.

    Args:
        config: Sizes and conditions.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.music = CodeModel(
            config.transformer(),
            config.positions,
            config.shift + config.codebook_size,
            own_start=config.labels is None,
            output="own" if config.merged_decoder else "tied",
        )
        self.labels = LabelConditioner(config, config.labels) if config.labels is not None else None
        self.upsampler = (
            UpsamplerConditioner(config.upsampler, config.width, config.codebook_size, config.init_scale)
            if config.upsampler is not None
            else None
        )
        separate = config.lyrics is not None and config.lyrics.encoder is not None
        self.lyrics = LyricEncoder(config, config.lyrics) if separate and config.lyrics is not None else None

    def forward(self, codes: Tensor, labels: Tensor | None = None, above: Tensor | None = None) -> PriorLogits:
        """Predict codes from those before them, and the lyrics.

        Args:
            codes: int64 ``(batch, codes)``, at most ``context``.
            labels: Label vectors int64 ``(batch, label_length)``; see ``label_vector``.
            above: Codes of the level above that cover them, int64 ``(batch, codes above)``.

        Raises:
            ValueError: If shapes do not fit the configuration, or times are out of range.
        """
        self._check(codes)
        known = self._conditions(codes, labels, above)
        hidden = self.music.transformer(self._read(codes[:, :-1], known), context=known.context)
        logits, first = self.music.logits(hidden, 0, known.bias), self.config.lyrics_in_sequence
        if first:
            return PriorLogits(logits[:, first:], logits[:, :first])
        return PriorLogits(logits, None if self.lyrics is None else self.lyrics.head(known.context))

    def loss(self, codes: Tensor, labels: Tensor | None = None, above: Tensor | None = None) -> PriorLoss:
        """Return what the model pays for codes and lyrics, in bits; arguments as of ``forward``."""
        logits = self(codes, labels, above)
        music = _bits(logits.music, codes + self.config.shift)
        lyric_bits, loss = torch.zeros_like(music), music
        if logits.lyrics is not None and self.config.lyrics is not None and labels is not None:
            tokens, context = self.config.lyrics.tokens, self.config.context
            lyric_bits = _bits(logits.lyrics, labels[:, -tokens:])
            weighted = self.config.lyrics.loss_fraction * lyric_bits * tokens + music * context
            loss = weighted / (tokens + context)
        metrics = {"bits_per_code": music.detach(), "bits_per_character": lyric_bits.detach()}
        return PriorLoss(loss, music, lyric_bits, metrics)

    def hidden(
        self,
        codes: Tensor,
        layers: Collection[int],
        labels: Tensor | None = None,
        above: Tensor | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[int, Tensor]:
        """Return activations, the model being fed the codes themselves.

        Frame ``t`` is the state that predicts code ``t``, having read the codes before it, as in Castellon et al.
        (2021), Codified audio language modeling learns useful representations for music information retrieval. Lyrics
        in the sequence get no frames.

        Args:
            codes: int64 ``(batch, codes)``, at most ``context``.
            layers: 0 is the input of the first block, ``n`` the output of block ``n``; no deeper block is run.
            labels: Label vectors ``(batch, label_length)``.
            above: Codes of the level above that cover them.
            reduce: What is kept of each layer, such as an average over frames; no two layers are then held in full.

        Returns:
            Layer to ``(batch, codes, width)``, or to what ``reduce`` makes of that.

        Raises:
            ValueError: If shapes do not fit the configuration, times are out of range, or there is no such layer.
        """
        self._check(codes)
        known = self._conditions(codes, labels, above)
        first = self.config.lyrics_in_sequence
        outputs: dict[int, Tensor] = self.music.transformer(
            self._read(codes[:, :-1], known),
            layers,
            context=known.context,
            reduce=lambda hidden: hidden[:, first:] if reduce is None else reduce(hidden[:, first:]),
        )
        return outputs

    @torch.no_grad()
    def sample(
        self,
        prompt: Tensor,
        steps: int,
        labels: Tensor | None = None,
        above: Tensor | None = None,
        sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Continue codes.

        Music codes alone are drawn; the original may also draw lyric characters, and takes them for code 0.

        Args:
            prompt: int64 ``(batch, codes)``; no codes: from the start.
            steps: Codes to add; with the prompt at most ``context``.
            labels: Label vectors ``(batch, label_length)``.
            above: Codes of the level above that cover prompt and new codes.
            sampling: How codes are drawn; there is no guidance.
            generator: Of the draws.
            progress: Called after every code with the number drawn and ``steps``.
            chunk: The prompt is read so many positions at a time, to save memory; ``None``: at once.

        Returns:
            Prompt and new codes, ``(batch, codes + steps)``.

        Raises:
            ConfigError: If guidance is asked for, or ``chunk`` is not positive.
            ValueError: If shapes do not fit the configuration, or times are out of range.
        """
        if sampling.guidance != 1 or (chunk is not None and chunk < 1):
            raise ConfigError(
                f"Jukebox wants guidance 1 (it has none) and a positive chunk, got {sampling.guidance:g} and {chunk}"
            )
        self._check(prompt, steps)
        if not steps:
            return prompt
        known = self._conditions(prompt, labels, above, steps)
        read, model = self._read(prompt, known), self.music
        last, stepper = read_prompt(model.transformer, read, read.shape[1] + steps - 1, known.context, chunk)
        del read
        drawn, predict = prompt.new_empty(len(prompt), steps), few_rows_linear(model.output_weight, None, len(prompt))
        for step in range(steps):
            before_head = model.before_head(last.unsqueeze(1), stepper.position - 1, known.bias)
            logits = predict(before_head[:, 0])[:, None, self.config.shift :]
            code = sample_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p, generator)
            drawn[:, step : step + 1] = code
            if progress is not None:
                progress(step + 1, steps)
            if step + 1 < steps:
                placed = model.place(model.embedding(code + self.config.shift), stepper.position, known.bias)
                last = stepper(placed[:, 0])
        return torch.cat([prompt, drawn], dim=1)

    def _read(self, codes: Tensor, known: _Conditions) -> Tensor:
        """Return the transformer's input for lyrics in the sequence and codes: ``(batch, 1 + length, width)``."""
        sequence = codes + self.config.shift
        if self.config.lyrics_in_sequence:
            sequence = torch.cat([known.lyrics, sequence], dim=1)
        return self.music.place(self.music.embed(sequence, known.start), 0, known.bias)

    def _conditions(self, codes: Tensor, labels: Tensor | None, above: Tensor | None, new: int = 0) -> _Conditions:
        """Embed all that is known of a window."""
        config, start, bias, context = self.config, None, self._upper(above, codes.shape[1] + new), None
        expected = (len(codes), config.label_length)
        if (labels is None) != (self.labels is None) or (labels is not None and labels.shape != expected):
            wanted = f"label vectors {expected}; see label_vector" if config.labels is not None else "no labels"
            found = "none" if labels is None else str(tuple(labels.shape))
            raise ValueError(f"prior {config.name} wants {wanted}; got {found}")
        lyrics = codes[:, :0]
        if self.labels is not None and labels is not None and config.labels is not None:
            check_timing(config, labels)
            times, artist, genres, lyrics = labels.tensor_split([3, 4, 4 + config.labels.max_genres], dim=1)
            start = self.labels(artist[:, 0], genres)
            if self.labels.bins:
                bias = self.labels.timing(times, codes.shape[1] + new)
        if self.lyrics is not None:
            context = self.lyrics(lyrics)
        if bias is not None and config.lyrics_in_sequence:
            bias = F.pad(bias, (0, 0, config.lyrics_in_sequence, 0))
        return _Conditions(start, bias, context, lyrics)

    def _upper(self, above: Tensor | None, codes: int) -> Tensor | None:
        """Return what the level above says about every code, ``(batch, codes or more, width)``."""
        if (self.upsampler is None) != (above is None):
            wanted = "no codes" if self.upsampler is None else "codes"
            raise ValueError(f"prior {self.config.name} wants {wanted} of a level above")
        if self.upsampler is None or above is None:
            return None
        covered = above.shape[1] * self.upsampler.ratio
        if above.ndim != 2 or not codes <= covered:
            raise ValueError(
                f"prior {self.config.name} wants codes above (batch, codes), covering {codes} codes; got "
                f"{tuple(above.shape)}, which cover {covered}"
            )
        upper: Tensor = self.upsampler(above)
        return upper

    def _check(self, codes: Tensor, new: int = 0) -> None:
        if codes.ndim != 2 or new < 0 or not 0 < codes.shape[1] + new <= self.config.context:
            raise ValueError(
                f"prior {self.config.name} wants codes (batch, 1 to {self.config.context}), got {tuple(codes.shape)}"
                + (f" and {new} new ones" if new else "")
            )


def _bits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in bits."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()) / math.log(2)
