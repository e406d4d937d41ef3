"""What a prior of Jukebox is made of, as data."""

from dataclasses import dataclass
from typing import Literal

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.transformer.sparse_attention import Pattern
from sonido_bench.foundation.transformer.transformer import TransformerConfig

__all__ = [
    "LabelConfig",
    "LyricEncoderConfig",
    "LyricsConfig",
    "PriorConfig",
    "UpsamplerConfig",
    "attention_patterns",
]

_FACTORISED: tuple[Pattern, ...] = ("row", "column", "previous_row")
_WITH_CROSS: tuple[Pattern, ...] = (*_FACTORISED * 3, "cross")
_ORDERS: dict[int, tuple[Pattern, ...]] = {
    0: ("dense",),
    2: _FACTORISED,
    8: _WITH_CROSS,
    9: (*_FACTORISED, "dense"),
    10: (*_FACTORISED * 3, *_WITH_CROSS * 7),
}

_PERIOD = 79  # blocks after which every order has shown all its patterns


def attention_patterns(order: int, depth: int) -> tuple[Pattern, ...]:
    """Return the pattern of every block, by the number that Jukebox gives to a sequence of patterns.

    Jukebox (2020), jukebox/transformer/transformer.py. Orders 2 (5b, upsamplers), 10 (5b_lyrics) and 12 (1b_lyrics) are
    those of the published models; their block ``i`` has the same pattern whatever the depth, so that a model cut short
    is the beginning of the whole.

    Args:
        order: 0, 2, 8, 9, 10 or 12.
        depth: Blocks.

    Returns:
        ``depth`` patterns.

    Raises:
        ConfigError: If there is no such order here.
    """
    if order == 12:  # every sixteenth block differs; by its place it is prime, prime or dense
        special: tuple[Pattern, ...] = ("prime", "prime", "dense")
        return tuple((special if block % 16 == 15 else _FACTORISED)[block % 3] for block in range(depth))
    if order not in _ORDERS:
        raise ConfigError(f"unknown attention order {order}; use one of {[*_ORDERS, 12]}")
    return tuple(_ORDERS[order][block % len(_ORDERS[order])] for block in range(depth))


@dataclass(frozen=True)
class LabelConfig:
    """Who plays what, and where in the song.

    Attributes:
        version: Of the id files and of the rules by which names are looked up in them.
        artists: Number of artist ids; 0 is unknown.
        genres: Number of genre ids; 0 is unknown.
        max_genres: Genres of a song at most: 5 words in v2, one genre in v3.
        timing_bins: Of the three timing embeddings; 0: the model is told no time, as the upsamplers are not.
        min_seconds: Songs are at least so long.
        max_seconds: And shorter than this.
    """

    version: Literal["v2", "v3"] = "v2"
    artists: int = 4111
    genres: int = 120
    max_genres: int = 5
    timing_bins: int = 0
    min_seconds: float = 0.0
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if min(self.artists, self.genres, self.max_genres) < 1 or self.timing_bins < 0:
            raise ConfigError(
                "labels want one artist, one genre and one genre of a song at least, and timing_bins of 0 or more, got "
                f"{self.artists}, {self.genres}, {self.max_genres} and {self.timing_bins}"
            )
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ConfigError(
                f"labels want 0 <= min_seconds < max_seconds, got {self.min_seconds:g} and {self.max_seconds:g}"
            )


@dataclass(frozen=True)
class LyricEncoderConfig:
    """A transformer of its own over the lyrics.

    Attributes:
        width: Channels.
        depth: Blocks.
        heads: Of the attention.
        blocks: Rows that the lyrics are laid out in.
        attention_order: Of its blocks.
        init_scale: Of its weights.
    """

    width: int
    depth: int
    heads: int
    blocks: int
    attention_order: int = 2
    init_scale: float = 0.7


@dataclass(frozen=True)
class LyricsConfig:
    """What is sung.

    Attributes:
        tokens: Characters that are given to a window of music.
        vocabulary: Ids of characters, 0 being none or unknown: 80 in v2, 79 in v3.
        encoder: A separate transformer, which the music attends to; ``None``: lyrics stand in front of the music in one
            sequence, with one vocabulary.
        loss_fraction: Weight of predicting the lyrics.
    """

    tokens: int
    vocabulary: int
    encoder: LyricEncoderConfig | None = None
    loss_fraction: float = 0.4


@dataclass(frozen=True)
class UpsamplerConfig:
    """How codes of the level above condition this one.

    Attributes:
        doublings: The level above has ``2 ** doublings`` times fewer codes.
        width: Channels of the convolutions.
        depth: Residual convolutions in front of every doubling.
        dilation_growth: From one of them to the next.
        dilation_cycle: Of them, after which dilations start again at 1; ``None``: never.
        scale_residuals: Residual branches are divided by ``sqrt(depth)``; so in the upsampler of the middle level.
    """

    doublings: int = 2
    width: int = 1024
    depth: int = 16
    dilation_growth: int = 3
    dilation_cycle: int | None = 8
    scale_residuals: bool = False


@dataclass(frozen=True)
class PriorConfig:
    """A transformer over the codes of one level.

    Attributes:
        name: Of the preset.
        hop_length: Samples of one code: 8, 32 or 128.
        context: Codes of a window.
        width: Channels.
        depth: Blocks.
        heads: Of the attention, whose channels are a quarter of ``width``.
        blocks: Rows that the whole sequence, lyrics and music, is laid out in.
        attention_order: See ``attention_patterns``.
        init_scale: Weights start with a standard deviation of 0.02 times this.
        codebook_size: Codes of the level.
        sample_rate: Of the audio, in Hz.
        labels: Artist, genre and timing, or ``None`` for a model without labels.
        lyrics: Or ``None`` for a model without lyrics.
        upsampler: How it is conditioned on the level above, or ``None`` for the top level.
        merged_decoder: Output weights are the model's own, and conditions enter at the bottom alone; otherwise the
            input embedding serves at the output too, and conditions are added there again.
        checkpointing: Recompute activations in the backward pass to save memory.
    """

    name: str
    hop_length: int
    context: int
    width: int
    depth: int
    heads: int
    blocks: int
    attention_order: int = 2
    init_scale: float = 1.0
    codebook_size: int = 2048
    sample_rate: int = 44_100
    labels: LabelConfig | None = None
    lyrics: LyricsConfig | None = None
    upsampler: UpsamplerConfig | None = None
    merged_decoder: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if self.positions % self.blocks:
            raise ConfigError(
                f"prior {self.name}: {self.positions} positions cannot be laid out in {self.blocks} blocks; the number "
                "of blocks must divide that of lyrics and music in the sequence"
            )
        encoder = None if self.lyrics is None else self.lyrics.encoder
        if self.lyrics is not None and encoder is not None and self.lyrics.tokens % encoder.blocks:
            raise ConfigError(
                f"prior {self.name}: {self.lyrics.tokens} lyric tokens are not whole rows of {encoder.blocks} blocks"
            )
        if self.lyrics is not None and self.labels is None:
            raise ConfigError(f"prior {self.name}: lyrics come with labels; give a LabelConfig")
        patterns = attention_patterns(self.attention_order, min(self.depth, _PERIOD))  # a hostile depth takes no memory
        if "cross" in patterns and encoder is None:
            raise ConfigError(f"prior {self.name}: attention order {self.attention_order} wants a lyric encoder")
        if "prime" in patterns and not self.lyrics_in_sequence:
            raise ConfigError(f"prior {self.name}: attention order {self.attention_order} wants lyrics in the sequence")
        if self.upsampler is not None and self.labels is not None and self.labels.timing_bins:
            raise ConfigError(f"prior {self.name}: an upsampler is told no time; set timing_bins to 0")

    @property
    def lyrics_in_sequence(self) -> int:
        """Return the lyric tokens that stand in front of the music, 0 without or with an encoder for them."""
        return self.lyrics.tokens if self.lyrics is not None and self.lyrics.encoder is None else 0

    @property
    def positions(self) -> int:
        """Return the positions of the whole sequence."""
        return self.lyrics_in_sequence + self.context

    @property
    def shift(self) -> int:
        """Return what is added to music codes in the common vocabulary; 0 if they are alone."""
        return self.lyrics.vocabulary if self.lyrics is not None and self.lyrics.encoder is None else 0

    @property
    def sample_length(self) -> int:
        """Return the samples of a window."""
        return self.context * self.hop_length

    @property
    def label_length(self) -> int:
        """Return the entries of a label vector: 3 of timing, artist, genres, lyrics; 0 without labels."""
        if self.labels is None:
            return 0
        return 4 + self.labels.max_genres + (self.lyrics.tokens if self.lyrics is not None else 0)

    def transformer(self) -> TransformerConfig:
        """Return the music transformer's configuration."""
        return _transformer(
            self.width, self.depth, self.heads, self.positions, self.blocks, self.attention_order, self.init_scale,
            lyrics=self.lyrics_in_sequence, checkpointing=self.checkpointing,
        )  # fmt: skip

    def lyric_transformer(self) -> TransformerConfig:
        """Return the lyric encoder's configuration.

        Raises:
            ConfigError: If there is none.
        """
        if self.lyrics is None or self.lyrics.encoder is None:
            raise ConfigError(f"prior {self.name} has no lyric encoder")
        encoder = self.lyrics.encoder
        return _transformer(
            encoder.width, encoder.depth, encoder.heads, self.lyrics.tokens, encoder.blocks, encoder.attention_order,
            encoder.init_scale, lyrics=0, checkpointing=self.checkpointing,
        )  # fmt: skip


def _transformer(
    width: int, depth: int, heads: int, positions: int, blocks: int, order: int, init_scale: float,
    lyrics: int, checkpointing: bool,
) -> TransformerConfig:  # fmt: skip
    return TransformerConfig(
        width=width,
        depth=depth,
        heads=heads,
        attention_width=width // 4,
        mlp_width=width,
        patterns=attention_patterns(order, depth),
        block_length=positions // blocks,
        # Jukebox rounds up to whole multiples of the number of blocks, and takes one more: 448 for 384 lyric tokens
        prime_length=(lyrics // blocks + 1) * blocks if lyrics else 0,
        activation="quick_gelu",
        init_scale=init_scale,
        depth_scaled_init=False,
        checkpointing=checkpointing,
    )
