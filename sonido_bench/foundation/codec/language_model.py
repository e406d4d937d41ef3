"""A language model over the codes of a multi-codebook tokenizer, with any interleaving pattern."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.patterns import CodePattern, PatternName
from sonido_bench.foundation.transformer.token_embedding import TokenEmbedding
from sonido_bench.foundation.transformer.transformer import Transformer, TransformerConfig

__all__ = ["PRESETS", "CodeCrossEntropy", "LanguageModel", "LanguageModelConfig", "sinusoidal_positions"]

_LONGEST_PERIOD = 10_000.0  # of the sinusoids, over 2 pi


@dataclass(frozen=True)
class LanguageModelConfig:
    """What a language model is made of; the defaults are MusicGen small's.

    Attributes:
        codebooks: Codes of a frame.
        codebook_size: Codes of a codebook.
        pattern: How codes are interleaved; see ``CodePattern``.
        delays: Of the pattern; ``None``: its default.
        width: Channels of the residual stream, an even number.
        depth: Blocks.
        heads: Of the attention.
        mlp_ratio: Hidden channels of the feed-forward half over ``width``.
        context: Frames of the longest sequence; 1500 are 30 s at 50 Hz.
        condition_dim: Of the vectors that it can be conditioned on; ``None``: it cannot.
        condition_positions: Vectors of the longest condition: 1 for an audio embedding, the tokens of a text.
        condition_dropout: Share of training items that are shown no condition, in [0, 1].
        dropout: On both branches of every block, in [0, 1).
        checkpointing: Recompute the blocks' activations in the backward pass to save memory.
    """

    codebooks: int = 4
    codebook_size: int = 2048
    pattern: PatternName = "delay"
    delays: tuple[int, ...] | None = None
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: int = 4
    context: int = 1500
    condition_dim: int | None = None
    condition_positions: int = 1
    condition_dropout: float = 0.2
    dropout: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range; the pattern and the transformer check their own."""
        CodePattern(self.pattern, self.codebooks, self.delays)
        for name in ("codebook_size", "mlp_ratio", "context", "condition_positions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.width < 4 or self.width % 2:
            raise ConfigError(f"width must be an even number from 4 on, for its sines and cosines, got {self.width}")
        if self.condition_dim is not None and self.condition_dim < 1:
            raise ConfigError(f"condition_dim must be 1 or more, or none at all, got {self.condition_dim}")
        if not 0 <= self.condition_dropout <= 1:
            raise ConfigError(f"condition_dropout must be in [0, 1], got {self.condition_dropout:g}")


PRESETS = {
    "tiny": LanguageModelConfig(width=64, depth=2, heads=2, context=500),
    "small": LanguageModelConfig(),
    "medium": LanguageModelConfig(width=1536, heads=24, depth=48),
    "large": LanguageModelConfig(width=2048, heads=32, depth=48),
}
"""Sizes of MusicGen (Copet et al. 2023, section 3.1), and audiocraft's debugging size at 10 s, without conditions."""


class CodeCrossEntropy(NamedTuple):
    """What a model pays for codes. Every code of every frame counts once, the first and last frames' like others'.

    Attributes:
        loss: To be minimised: the mean of ``per_codebook``.
        per_codebook: Nats per code, mean over items and frames, ``(codebooks,)``.
        bits_per_frame: Of all codebooks together. The code length of the frames under the model, whatever its pattern:
            the excess over ``flatten`` is the price of predicting codes independently.
    """

    loss: Tensor
    per_codebook: Tensor
    bits_per_frame: Tensor

    @property
    def metrics(self) -> dict[str, Tensor]:
        """To be logged, by name."""
        by_codebook = {f"nats_codebook_{index}": nats for index, nats in enumerate(self.per_codebook, start=1)}
        return {"bits_per_frame": self.bits_per_frame, **by_codebook}


class LanguageModel(nn.Module):
    """Models codes step by step, those of a step independently of each other given the steps before.

    It reads the condition, a step of special tokens, and then the steps of codes; each position predicts the next
    step. As in MusicGen: a table of ``codebook_size + 1`` embeddings for each codebook (the last is the special
    token), summed; sinusoidal positions; pre-norm blocks without biases; a norm and a head for each codebook.
    Unlike MusicGen, the condition is a prefix of the sequence, not attended to crosswise; positions are counted from
    the step of special tokens, so that codes have the same ones with and without condition.

    The prefix always has ``condition_positions`` vectors: what a condition leaves free holds a learned "none", and so
    do all of them without a condition. No mask is needed, and training, guidance and sampling see the same lengths.

    Args:
        config: Sizes and pattern.

    Raises:
        ConfigError: If ``heads`` does not divide ``width``, or there is no block.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.pattern = CodePattern(config.pattern, config.codebooks, config.delays)
        self.embedding = TokenEmbedding(config.codebooks, config.codebook_size + 1, config.width)
        self.transformer = _without_biases(Transformer(_transformer_config(config)))
        self.norm = nn.LayerNorm(config.width)
        self.heads = nn.Linear(config.width, config.codebooks * config.codebook_size, bias=False)
        for weight in (self.embedding.tables, self.heads.weight):  # visible beside positions, which have size 1
            nn.init.normal_(weight, std=config.width**-0.5)
        if config.condition_dim is not None:
            self.condition = nn.Linear(config.condition_dim, config.width)
            self.no_condition = nn.Parameter(config.width**-0.5 * torch.randn(config.width))

    @property
    def special(self) -> int:
        """Return the token for steps without a code, and for the step before the first one."""
        return self.config.codebook_size

    def forward(
        self, codes: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Predict every code from those on earlier steps.

        Args:
            codes: ``(batch, frames, codebooks)`` integers below ``codebook_size``, at most ``context`` frames.
            condition: ``(batch, positions, condition_dim)``, at most ``condition_positions``, or one vector for each
                item, ``(batch, condition_dim)``. Vectors of zeros only are padding and become the learned "none".
                ``None``: no condition. In training mode, it is dropped for a share of the items.
            generator: Of the conditions that are dropped.

        Returns:
            Logits ``(batch, frames, codebooks, codebook_size)``.

        Raises:
            ValueError: If shapes or codes do not fit the configuration.
        """
        states = self.states(codes, condition, generator)
        return self.logits(states[:, self.pattern.places(codes.shape[1]).to(codes.device)])

    def states(
        self, codes: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return what each step is predicted from, ``(batch, steps, width)``; arguments and errors as ``forward``."""
        self.check_codes(codes, 1)
        prefix = self.prefix(condition, len(codes), self._kept(len(codes), generator))
        shifted = self.shifted(codes)[:, :-1]
        states: Tensor = self.transformer(torch.cat([prefix, self.embed(shifted)], dim=1))[:, prefix.shape[1] :]
        return states

    def cross_entropy(
        self, codes: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> CodeCrossEntropy:
        """Return what the model pays for codes; arguments and errors are those of ``forward``."""
        logits = self(codes, condition, generator).float()
        nats = F.cross_entropy(logits.flatten(0, 2), codes.flatten().long(), reduction="none")
        per_codebook = nats.view(codes.shape).mean(dim=(0, 1))
        return CodeCrossEntropy(per_codebook.mean(), per_codebook, per_codebook.sum() / math.log(2))

    def hidden(self, codes: Tensor, layers: Collection[int], condition: Tensor | None = None) -> dict[int, Tensor]:
        """Return activations frame by frame, the model being fed the codes themselves.

        Frame ``t`` is the state at the first position that has read all codes of frame ``t``: for ``delay``, the step
        of its last codebook, where codebook ``k`` has been read up to frame ``t + max(d) - d[k]``, a look-ahead of
        ``max(d)`` frames at most. ``parallel`` and the two flattened patterns have none; a state of ``coarse_first``
        has read the first codebook to its end. It looks back to the first frame that is given.

        Args:
            codes: As in ``forward``.
            layers: 0 is the input of the first block, ``n`` the output of block ``n``; no deeper block is run.
            condition: As in ``forward``; never dropped.

        Returns:
            Layer to ``(batch, frames, width)``, in ascending order.

        Raises:
            ValueError: If shapes or codes do not fit the configuration, or there is no such layer.
        """
        self.check_codes(codes, 1)
        prefix = self.prefix(condition, len(codes))
        outputs = self.transformer(torch.cat([prefix, self.embed(self.shifted(codes))], dim=1), layers)
        last = self.pattern.places(codes.shape[1]).amax(dim=1).to(codes.device)
        return {layer: hidden[:, prefix.shape[1] + 1 + last] for layer, hidden in outputs.items()}

    def embed(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Embed steps, ``(batch, steps, codebooks)`` to ``(batch, steps, width)``.

        Args:
            tokens: Codes, and special tokens where a step has none.
            first: Place of the first of them among all that are read, the step of special tokens being 0.
        """
        embedded: Tensor = self.embedding(tokens)
        return embedded + sinusoidal_positions(first, tokens.shape[1], self.config.width, embedded)

    def shifted(self, codes: Tensor) -> Tensor:
        """Return what is read: special tokens, then the codes on their steps, ``(batch, 1 + steps, codebooks)``."""
        return F.pad(self.pattern.build(codes, self.special).tokens, (0, 0, 1, 0), value=self.special)

    def prefix(self, condition: Tensor | None, batch: int, kept: Tensor | None = None) -> Tensor:
        """Return what is read before the codes.

        Args:
            condition: As in ``forward``.
            batch: Items.
            kept: ``(batch,)``, false where the condition is dropped; ``None``: nowhere.

        Returns:
            ``(batch, condition_positions, width)``; no position, if the model cannot be conditioned.

        Raises:
            ValueError: If the condition does not fit the configuration.
        """
        dim, positions = self.config.condition_dim, self.config.condition_positions
        if dim is None:
            if condition is not None:
                raise ValueError("this language model takes no condition: its condition_dim is none")
            return self.norm.weight.new_zeros(batch, 0, self.config.width)
        none = self.no_condition.expand(batch, positions, -1)
        if condition is None:
            return none
        vectors = condition.unsqueeze(1) if condition.ndim == 2 else condition
        if vectors.ndim != 3 or vectors.shape[::2] != (batch, dim) or not 0 < vectors.shape[1] <= positions:
            raise ValueError(
                f"expected conditions ({batch}, 1 to {positions}, {dim}) or ({batch}, {dim}), "
                f"got {tuple(condition.shape)}"
            )
        given = vectors.any(dim=2, keepdim=True)
        if kept is not None:
            given = given & kept.to(given.device).view(-1, 1, 1)
        projected = torch.where(given, self.condition(vectors), none[:, : vectors.shape[1]])
        return torch.cat([projected, none[:, vectors.shape[1] :]], dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply each codebook's head: ``(..., codebooks, width)`` to ``(..., codebooks, codebook_size)``."""
        heads = torch.unflatten(self.heads.weight, 0, (self.config.codebooks, -1))
        return torch.einsum("...kw,kcw->...kc", self.norm(hidden), heads)

    def next_logits(self, state: Tensor) -> Tensor:
        """Apply all heads to one state, ``(batch, width)`` to ``(batch, codebooks, codebook_size)``; for sampling."""
        logits: Tensor = self.heads(self.norm(state))
        return torch.unflatten(logits, -1, (self.config.codebooks, -1))

    def check_codes(self, codes: Tensor, least: int = 0) -> None:
        """Refuse codes that would be read as something else.

        Args:
            codes: As in ``forward``.
            least: Frames that there must be.

        Raises:
            ValueError: If their shape or type is another, there are too few or too many frames, or one is out of range:
                it would be the special token, or one of the next codebook.
        """
        config = self.config
        fits = codes.ndim == 3 and codes.shape[2] == config.codebooks and not codes.is_floating_point()
        if not fits or not len(codes) or not least <= codes.shape[1] <= config.context:
            raise ValueError(
                f"expected integer codes (batch, {least} to {config.context} frames, {config.codebooks}), "
                f"got {codes.dtype} {tuple(codes.shape)}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < config.codebook_size:
            raise ValueError(
                f"expected codes from 0 to {config.codebook_size - 1}, got {int(codes.min())} to {int(codes.max())}"
            )

    def _kept(self, batch: int, generator: torch.Generator | None) -> Tensor | None:
        """Choose the items whose condition is shown, in training."""
        if not self.training or self.config.condition_dim is None:
            return None
        device = "cpu" if generator is None else generator.device
        return torch.rand(batch, generator=generator, device=device) >= self.config.condition_dropout


def sinusoidal_positions(first: int, count: int, width: int, like: Tensor) -> Tensor:
    """Return cosines and then sines of places, as MusicGen has them.

    Args:
        first: Place of the first row.
        count: Rows.
        width: Columns: half cosines, half sines, of angular frequencies from 1 down to 1 / 10,000, evenly in log.
        like: Gives type and device; they are computed in float32.

    Returns:
        ``(count, width)``.
    """
    half = width // 2
    exponents = torch.arange(half, device=like.device, dtype=torch.float32) / (half - 1)
    places = torch.arange(first, first + count, device=like.device, dtype=torch.float32)
    angles = places.unsqueeze(1) * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(like.dtype)


def _transformer_config(config: LanguageModelConfig) -> TransformerConfig:
    return TransformerConfig(
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        attention_width=config.width,
        mlp_width=config.mlp_ratio * config.width,
        patterns=("dense",),
        dropout=config.dropout,
        checkpointing=config.checkpointing,
    )


def _without_biases(transformer: Transformer) -> Transformer:
    """Take the biases from all linear layers; the norms keep theirs, as in MusicGen."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            module.register_parameter("bias", None)
    return transformer
