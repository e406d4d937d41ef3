"""Stage 2: a transformer over the tokens of one level."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.sonido.config import PriorConfig
from sonido_bench.foundation.transformer.conditioner import TokenConditioner
from sonido_bench.foundation.transformer.sampling import SamplingConfig, sample_logits
from sonido_bench.foundation.transformer.stepping import read_prompt
from sonido_bench.foundation.transformer.token_embedding import TokenEmbedding
from sonido_bench.foundation.transformer.transformer import Transformer, TransformerConfig

__all__ = ["Prior", "PriorLoss", "hidden_spans"]

# Of wav2vec 2.0 (Baevski et al. 2020, section 4.2): about half of the frames of a long sequence are hidden.
_SPAN_START, _SPAN_FRAMES = 0.065, 10


@dataclass(frozen=True)
class PriorLoss:
    """What a batch costs.

    Attributes:
        loss: To be minimised.
        nats_per_token: Cross-entropy, mean over items, predicted frames and codebooks.
        future: Cross-entropy of the codes within the horizon, in nats, mean likewise; 0 without a horizon.
        metrics: To be logged, by name; without gradients.
    """

    loss: Tensor
    nats_per_token: Tensor
    future: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Prior(nn.Module):
    """Models the tokens of a level, frame by frame, given those of the level above and an audio embedding.

    A causal prior reads a start token and then the frames: position ``i`` has read frames before ``i`` and predicts
    all codes of frame ``i`` at once, codebooks being independent given the past. Hence it is position ``i`` that gets
    what the level above says about frame ``i``. A masked prior has no start token, and position ``i`` is frame ``i``.

    An audio embedding enters twice, through the start token and as a bias at every position.

    Args:
        config: Sizes and objective.
        codebooks: Codes of a frame.
        codebook_size: Codes of a codebook.
        above: Codebooks and codebook size of the level above, and frames of this level in one of its frames.

    Raises:
        ConfigError: If ``above`` is missing or superfluous, or a masked prior is to look ahead.
    """

    def __init__(
        self, config: PriorConfig, codebooks: int, codebook_size: int, above: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__()
        if (above is None) != (config.above is None):
            raise ConfigError(f"prior {config.level} is conditioned on {config.above}, but was given {above} of it")
        if config.objective == "masked" and config.horizon:
            raise ConfigError(f"prior {config.level}: horizon goes with objective causal; a masked prior sees ahead")
        self.config, self.codebooks, self.codebook_size = config, codebooks, codebook_size
        width, outputs = config.width, codebooks * codebook_size
        self.embedding = TokenEmbedding(codebooks, codebook_size, width)
        self.positions = nn.Parameter(0.01 * torch.randn(config.context, width))
        # the start token, or what stands for a hidden frame
        self.special = nn.Parameter(0.01 * torch.randn(width))
        self.transformer = Transformer(_transformer_config(config))
        self.norm = nn.LayerNorm(width)
        self.head = _small(nn.Linear(width, outputs))
        # a view of its own, but the same head: half of a small model would be heads
        self.future = nn.Linear(width, width) if config.horizon else None
        self.conditioner = (
            TokenConditioner(*above, width, config.conditioner_width, config.conditioner_depth) if above else None
        )
        if config.condition_dim is not None:
            self.no_condition = nn.Parameter(0.01 * torch.randn(config.condition_dim))
            self.condition_bias = _small(nn.Linear(config.condition_dim, width))
            if config.objective == "causal":
                self.condition_start = _small(nn.Linear(config.condition_dim, width))

    def initialise_embeddings(self, codes: Tensor) -> None:
        """Start the token embeddings from stage 1's codes, ``(codebooks, codebook_size, code_dim)``."""
        self.embedding.initialise(codes)

    def loss(
        self,
        tokens: Tensor,
        above: Tensor | None = None,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> PriorLoss:
        """Return what the model pays for tokens.

        Args:
            tokens: ``(batch, frames, codebooks)``, at most ``context`` frames.
            above: Tokens of the level above that cover them, ``(batch, frames_above, codebooks_above)``.
            condition: Audio embeddings ``(batch, condition_dim)``; ``None``: the learned "none".
            generator: Of the embeddings that are dropped (in training mode) and the frames that are hidden.

        Raises:
            ValueError: If shapes do not fit the configuration.
        """
        self._check(tokens)
        vectors = self._condition_vectors(condition, len(tokens))
        if vectors is not None and self.training:
            dropped = _draw((len(tokens), 1), generator).to(vectors.device) < self.config.condition_dropout
            vectors = torch.where(dropped, self.no_condition, vectors)
        upper = self._upper(above, tokens.shape[1])
        future = tokens.new_zeros((), dtype=torch.float32)
        if self.config.objective == "masked":
            hidden_frames = hidden_spans(len(tokens), tokens.shape[1], generator).to(tokens.device)
            embedded = torch.where(hidden_frames.unsqueeze(2), self.special, self.embedding(tokens))
            hidden = self.norm(self.transformer(self._placed(embedded, 0, upper, vectors)))
            nats = self._cross_entropy(hidden[hidden_frames], tokens[hidden_frames])
        else:
            shifted = self._placed(self._shifted(tokens[:, :-1], vectors), 0, upper, vectors)
            hidden = self.norm(self.transformer(shifted))
            nats = self._cross_entropy(hidden, tokens)
            if self.future is not None:
                future = _future_cross_entropy(self._logits(self.future(hidden)), tokens, self.config.horizon)
        metrics = {"nats_per_token": nats.detach()}
        if self.future is not None:
            metrics["future"] = future.detach()
        return PriorLoss(nats + self.config.horizon_weight * future, nats, future, metrics)

    def hidden(
        self,
        tokens: Tensor,
        layers: Collection[int],
        above: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """Return activations, the model being fed the tokens themselves.

        Frame ``t`` of a causal prior is the state after it has read frames 0 to ``t`` and before it predicts ``t + 1``;
        as that is the position of frame ``t + 1``, it gets what the level above says about ``t + 1`` too. Behind the
        last frame of a full context there is no such position: its state has the learned position, and what is known
        from above, of the last frame. A masked prior sees all frames, and frame ``t`` is its state at ``t``.

        Args:
            tokens: ``(batch, frames, codebooks)``, at most ``context`` frames.
            layers: 0 is the input of the first block, ``n`` the output of block ``n``; no deeper block is run.
            above: Tokens of the level above that cover them, ``(batch, frames_above, codebooks_above)``.
            condition: Audio embeddings ``(batch, condition_dim)``; ``None``: the learned "none".

        Returns:
            Layer to ``(batch, frames, width)``.

        Raises:
            ValueError: If shapes do not fit the configuration, or there is no such layer.
        """
        self._check(tokens)
        vectors = self._condition_vectors(condition, len(tokens))
        upper = self._upper(above, tokens.shape[1])
        causal = self.config.objective == "causal"
        embedded = self._shifted(tokens, vectors) if causal else self.embedding(tokens)
        outputs = self.transformer(self._placed(embedded, 0, upper, vectors), layers)
        return {layer: hidden[:, 1:] if causal else hidden for layer, hidden in outputs.items()}

    @torch.no_grad()
    def sample(
        self,
        prompt: Tensor,
        steps: int,
        above: Tensor | None = None,
        condition: Tensor | None = None,
        sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Continue tokens.

        Args:
            prompt: ``(batch, frames, codebooks)``; no frames: from the start.
            steps: Frames to add; with the prompt at most ``context``.
            above: Tokens of the level above that cover prompt and new frames.
            condition: Audio embeddings ``(batch, condition_dim)``; ``None``: the learned "none".
            sampling: How codes are drawn; ``guidance`` other than 1 wants a condition and doubles the cost.
            generator: Of the draws.
            progress: Called after every frame with the number drawn and ``steps``.

        Returns:
            Prompt and new frames, ``(batch, frames + steps, codebooks)``.

        Raises:
            ConfigError: If the prior is masked, or guidance meets no condition.
            ValueError: If shapes do not fit the configuration.
        """
        guided = sampling.guidance != 1
        if self.config.objective == "masked":
            raise ConfigError(f"prior {self.config.level} is masked and cannot sample; train one that is causal")
        if guided and condition is None:
            raise ConfigError("guidance wants a condition: give an audio or text embedding, or guidance 1")
        self._check(prompt, steps)
        if not steps:
            return prompt
        vectors = self._condition_vectors(condition, len(prompt))
        upper = self._upper(above, prompt.shape[1] + steps)
        if guided and vectors is not None:  # the second half of the batch is without condition
            vectors = torch.cat([vectors, self.no_condition.expand_as(vectors)])
            upper = None if upper is None else upper.repeat(2, 1, 1)
        copies, tokens = 2 if guided else 1, prompt
        read = self._placed(self._shifted(prompt.repeat(copies, 1, 1), vectors), 0, upper, vectors)
        last, stepper = read_prompt(self.transformer, read, read.shape[1] + steps - 1)
        for step in range(steps):
            logits = self._logits(self.norm(last)).unsqueeze(1)
            if guided:
                with_condition, without = logits.chunk(2)
                logits = without + sampling.guidance * (with_condition - without)
            drawn = sample_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p, generator)
            tokens = torch.cat([tokens, drawn], dim=1)
            if progress is not None:
                progress(step + 1, steps)
            if step + 1 < steps:
                embedded = self.embedding(drawn.repeat(copies, 1, 1))
                last = stepper(self._placed(embedded, stepper.position, upper, vectors)[:, 0])
        return tokens

    def _shifted(self, tokens: Tensor, vectors: Tensor | None) -> Tensor:
        """Embed frames behind a start token: ``(batch, 1 + frames, width)``."""
        start = self.special.expand(len(tokens), 1, -1)
        if vectors is not None:
            start = start + self.condition_start(vectors).unsqueeze(1)
        return torch.cat([start, self.embedding(tokens)], dim=1)

    def _placed(self, embedded: Tensor, first: int, upper: Tensor | None, vectors: Tensor | None) -> Tensor:
        """Add what is known of every position, the first of which is given: its place, the level above, the audio."""
        index = torch.arange(first, first + embedded.shape[1], device=embedded.device)
        placed = embedded + self.positions[index.clamp(max=len(self.positions) - 1)]
        if upper is not None:
            placed = placed + upper[:, index.clamp(max=upper.shape[1] - 1)]
        if vectors is not None:
            placed = placed + self.condition_bias(vectors).unsqueeze(1)
        return placed

    def _upper(self, above: Tensor | None, frames: int) -> Tensor | None:
        """Return what the level above says about every frame, ``(batch, frames or more, width)``."""
        if (self.conditioner is None) != (above is None):
            raise ValueError(
                f"prior {self.config.level} is conditioned on {self.config.above}; give exactly its tokens"
            )
        if self.conditioner is None or above is None:
            return None
        if above.shape[1] * self.conditioner.ratio < frames:
            raise ValueError(
                f"prior {self.config.level}: {above.shape[1]} frames above cover "
                f"{above.shape[1] * self.conditioner.ratio} frames, not {frames}"
            )
        upper: Tensor = self.conditioner(above)
        return upper

    def _condition_vectors(self, condition: Tensor | None, batch: int) -> Tensor | None:
        """Return embeddings ``(batch, condition_dim)``, the learned "none" if there are none."""
        dim = self.config.condition_dim
        if condition is not None and condition.shape != (batch, dim):
            raise ValueError(
                f"prior {self.config.level} wants conditions of shape ({batch}, {dim}), got {tuple(condition.shape)}"
            )
        if dim is None:
            return None
        return self.no_condition.expand(batch, -1) if condition is None else condition

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden)
        return torch.unflatten(logits, -1, (self.codebooks, self.codebook_size))

    def _cross_entropy(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self._logits(hidden).flatten(0, -2), tokens.flatten())

    def _check(self, tokens: Tensor, new_frames: int = 0) -> None:
        fits = tokens.ndim == 3 and tokens.shape[2] == self.codebooks
        if not fits or not 0 < tokens.shape[1] + new_frames <= self.config.context:
            raise ValueError(
                f"prior {self.config.level} wants tokens (batch, 1 to {self.config.context} frames, {self.codebooks}), "
                f"got {tuple(tokens.shape)}" + (f" and {new_frames} new frames" if new_frames else "")
            )


def hidden_spans(batch: int, frames: int, generator: torch.Generator | None = None) -> Tensor:
    """Choose the frames that a masked prior has to guess: spans of 10, about half of them all, one at least.

    Args:
        batch: Items.
        frames: Of each.
        generator: Of the draw.

    Returns:
        ``(batch, frames)``, true where hidden.
    """
    draw = _draw((batch, frames), generator)
    starts = (draw < _SPAN_START).scatter(1, draw.argmin(dim=1, keepdim=True), True)
    spread = F.max_pool1d(F.pad(starts.float(), (_SPAN_FRAMES - 1, 0)), _SPAN_FRAMES, stride=1)
    return spread.bool()


def _future_cross_entropy(logits: Tensor, tokens: Tensor, horizon: int) -> Tensor:
    """Return the cross-entropy of predictions against the shares of the codes in the frames that follow.

    The target of position ``i`` is the histogram of the codes of frames ``i`` to ``i + horizon - 1``, or as many as
    there are. Its cross-entropy is the mean of those frames' own, so that no histogram is made.

    Args:
        logits: ``(batch, frames, codebooks, codebook_size)``.
        tokens: ``(batch, frames, codebooks)``.
        horizon: Frames.
    """
    frames = tokens.shape[1]
    ahead = F.pad(tokens, (0, 0, 0, horizon - 1)).unfold(1, horizon, 1)  # (batch, frames, codebooks, horizon)
    left = torch.arange(frames, 0, -1, device=tokens.device).clamp(max=horizon)
    weights = (torch.arange(horizon, device=tokens.device) < left.unsqueeze(1)) / left.unsqueeze(1)
    told = logits.log_softmax(dim=-1).gather(-1, ahead) * weights.unsqueeze(1)
    return -told.sum(dim=-1).mean()


def _draw(shape: tuple[int, int], generator: torch.Generator | None) -> Tensor:
    """Draw from [0, 1) where the generator is."""
    return torch.rand(shape, generator=generator, device="cpu" if generator is None else generator.device)


def _small(linear: nn.Linear) -> nn.Linear:
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


def _transformer_config(config: PriorConfig) -> TransformerConfig:
    return TransformerConfig(
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        attention_width=config.attention_width,
        mlp_width=config.mlp_width,
        patterns=config.patterns,
        block_length=config.block_length,
        dropout=config.dropout,
        checkpointing=config.checkpointing,
    )
