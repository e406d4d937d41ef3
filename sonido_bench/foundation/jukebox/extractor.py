"""Jukebox features: what the top prior makes of the audio's own codes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sonido_bench.errors import ConfigError
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec
from sonido_bench.features.windows import Window, kept_from_the_earlier, split
from sonido_bench.foundation.jukebox.labels import SongLabels, label_vector
from sonido_bench.foundation.jukebox.long_audio import encode_long
from sonido_bench.foundation.jukebox.precision import DType, in_precision, torch_dtype
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.vqvae import VQVAE

__all__ = ["JukeboxExtractor", "JukeboxFeatures", "Source"]

Source = Literal["prior", "tokens"]

_SONG_SECONDS = 62.0  # jukemir's: the prior knows no song of less than a minute
_PRESET, _LAYERS = "5b", (36,)  # jukemir's
_OVERLAP = 0.25  # of the context: what a frame has before it at least, but for those at the start
_CARD = ExtractorCard(
    name="jukebox",
    description="Activations of Jukebox's top prior, as in jukemir.",
    code_licence="Apache-2.0",
    weights_licence="LicenseRef-OpenAI-Jukebox-Noncommercial",
    citation="Dhariwal et al. (2020), Jukebox; Castellon et al. (2021), Codified audio language modeling.",
)


class JukeboxFeatures(Extractor):
    """Activations of a top prior that reads the audio's own codes (teacher forcing), as jukemir takes them.

    The audio is divided by its largest absolute sample, encoded by the top level of the VQ-VAE, and its codes are read
    by the prior, which is told that artist and genre are unknown and that it hears the beginning of a song of 62 s;
    stream ``layer_36`` is the residual stream behind block 36, without a norm. Castellon et al. (2021), Codified audio
    language modeling learns useful representations for music information retrieval, section 3, and their code jukemir,
    representations/jukebox/main.py. Their feature of a clip is the mean over the 8192 frames of its first 23.8 s.

    Unlike there, audio has any length: shorter clips are read as the beginning of a window, longer ones in windows of
    the prior's context, each told that it is the beginning. Of what two windows share, the earlier one's frames are
    kept: a quarter of the context, in whole pooled frames, precedes every frame at least but the first ones.

    Frame ``t`` is the state that predicts code ``t``: the last code it has read is ``t - 1``, at whose centre it is
    placed, ``(t - 0.5) * hop`` samples. Frame 0 has read nothing and is placed before the start.

    Args:
        vqvae: Whose top level encodes; what is not needed for that is taken off it.
        prior: Of the top level; blocks behind the deepest layer are taken off it. ``None``: the embeddings of the codes
            alone, the stream ``codes``, as a control; frames lie at the codes' centres.
        layers: Blocks whose output is given, from 1; 0 is the input of the first.
        pool: So many frames are averaged, window by window, so that what is held does not grow with their number: 8192
            frames of 4800 channels are 157 MB a layer.
        dtype: Of nearly all of the prior's weights, see ``precision.py``: in ``bfloat16`` it takes half the memory.
            Features are in float32.
        normalise: Divide by the peak.
        song_seconds: What the prior is told of the song's length.

    Raises:
        ConfigError: If the parts do not belong together, or the prior has no such layer.
    """

    window_seconds = None  # codes are cut up here, the audio in encode_long

    def __init__(
        self,
        vqvae: VQVAE,
        prior: Prior | None,
        layers: Sequence[int] = (36,),
        pool: int = 1,
        dtype: DType = "float32",
        normalise: bool = True,
        song_seconds: float = _SONG_SECONDS,
    ) -> None:
        super().__init__()
        if pool < 1:
            raise ConfigError(f"expected pool of 1 or more, got {pool}")
        self.pool, self.normalise = pool, normalise
        self.level = vqvae.levels - 1
        self.vqvae = _top_alone(vqvae)
        self.layers = () if prior is None else _layers(prior, layers)
        precision = torch_dtype(dtype)
        self.prior = None if prior is None else in_precision(_shortened(prior, max(self.layers)), precision)
        if prior is not None:
            _check_parts(vqvae, prior, pool)
            song = SongLabels.unknown(song_seconds, prior.config.sample_rate, prior.config.hop_length)
            label = label_vector(prior.config, song) if prior.config.labels is not None else torch.zeros(0)
            self.register_buffer("label", label, persistent=False)
        name = "tokens" if prior is None else prior.config.name
        self.card = replace(_CARD, name=f"jukebox-{name}")
        self.spec = FeatureSpec(vqvae.config.sample_rate, self._streams())

    @property
    def configuration(self) -> dict[str, Any]:
        """Constructor arguments but modules, of which the weights count."""
        return {name: value for name, value in super().configuration.items() if not isinstance(value, nn.Module)}

    @property
    def redrawn(self) -> nn.Module:
        """The prior: a control of it reads the same codes."""
        return self if self.prior is None else self.prior

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Return all streams of ``(batch, samples)``."""
        codes = self.encode(audio)
        if self.prior is None:
            return {"codes": self._pooled(self.vqvae.embed(codes, self.level))}
        parts: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        for window in _windows(codes.shape[1], self.prior.config.context, self.pool):
            hidden = self._hidden(codes[:, window.start : window.end])
            for layer in self.layers:
                parts[layer].append(hidden[layer][:, window.kept_frames(self.pool)])
        return {f"layer_{layer}": torch.cat(given, dim=1) for layer, given in parts.items()}

    def encode(self, audio: Tensor) -> Tensor:
        """Return top-level codes, int64 ``(batch, codes)``, of ``(batch, samples)``, a multiple of the hop."""
        if self.normalise:
            peak = audio.abs().amax(dim=1, keepdim=True)
            audio = audio / torch.where(peak > 0, peak, 1.0)
        return encode_long(self.vqvae, audio, self.level)

    def _hidden(self, codes: Tensor) -> dict[int, Tensor]:
        """Run the prior over one window; layers are pooled as they come, so that one at a time is held in full."""
        assert self.prior is not None
        labels = None
        if self.prior.config.labels is not None:
            labels = self.get_buffer("label").expand(len(codes), -1)
        return self.prior.hidden(codes, self.layers, labels, reduce=self._pooled)

    def _pooled(self, hidden: Tensor) -> Tensor:
        """Average ``(batch, frames, dim)`` over groups of ``pool`` frames, in float32."""
        grouped = torch.unflatten(hidden, 1, (-1, self.pool))
        return grouped.mean(dim=2, dtype=torch.float32) if self.pool > 1 else hidden.float()

    def _streams(self) -> dict[str, StreamSpec]:
        hop, rate = self.vqvae.hop(self.level), self.vqvae.config.sample_rate
        latest = 0.5 if self.prior is None else -0.5  # codes: frame t is code t; prior: code t - 1 was read last
        first = (latest + (self.pool - 1) / 2) * hop / rate
        if self.prior is None:
            return {"codes": StreamSpec(self.vqvae.config.code_dim, hop * self.pool, first)}
        width = self.prior.config.width
        return {f"layer_{layer}": StreamSpec(width, hop * self.pool, first) for layer in self.layers}


class JukeboxExtractor(JukeboxFeatures):
    """Jukebox's features from a folder or file: published weights, or a model of one's own; see ``JukeboxFeatures``.

    The published weights, which the user has fetched, are under OpenAI's Noncommercial Use License.

    Args:
        checkpoint: A folder as pre-training writes it; or one of published weights (see ``published_files`` of
            ``foundation/jukebox/folder.py``), or what ``load_prior`` of ``foundation/jukebox/checkpoint.py`` reads.
        preset: Of published weights, which top prior: ``5b`` (jukemir's), ``5b_lyrics`` or ``1b_lyrics``; lyrics are
            unknown. ``None``: what a folder tells, else ``5b``.
        layers: As ``JukeboxFeatures`` has it; of published weights, nothing behind the deepest is loaded. ``None``:
            the model's own default, or 36.
        pool: Likewise, as the two that follow.
        dtype: As above.
        normalise: As above.
        song_seconds: As above; ``None``: the model's own default, or 62.
        source: ``prior``, or ``tokens``: the embeddings of the codes, without the prior, which is then not loaded.
        vqvae: Where the VQ-VAE's weights lie; ``None``: with the prior's.
        cache: Folder in which the needed part of the prior is kept in a form that is read faster; ``None``: none.

    Raises:
        ConfigError: If the preset is no top prior, there is no such layer, or an option is not for such a folder.
        DataError: If the weights are missing or broken.
    """

    def __init__(
        self,
        checkpoint: Path,
        preset: str | None = None,
        layers: Sequence[int] | None = None,
        pool: int = 1,
        dtype: DType = "float32",
        normalise: bool = True,
        song_seconds: float | None = None,
        source: Source = "prior",
        vqvae: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        if source not in get_args(Source):
            raise ConfigError(f"unknown source {source!r}; use one of: {', '.join(get_args(Source))}")
        if (checkpoint / "config.yaml").is_file():
            if preset is not None or vqvae is not None or cache is not None:
                raise ConfigError(f"{checkpoint} is no published Jukebox: leave out preset, vqvae and cache")
            model = _own(checkpoint, layers, song_seconds, source, dtype)
        else:
            model = _published(checkpoint, preset, layers, song_seconds, source, dtype, vqvae, cache)
        super().__init__(model.vqvae, model.prior, model.layers, pool, dtype, normalise, model.song_seconds)
        self._resolved = {"preset": model.preset, "layers": list(model.layers), "song_seconds": model.song_seconds}
        self.card = model.card
        if source == "tokens":
            description = f"Code embeddings of {model.card.name}'s top level without its prior, a control."
            self.card = replace(self.card, name=f"{model.card.name}@tokenizer", description=description)

    @property
    def configuration(self) -> dict[str, Any]:
        """Constructor arguments, with what stands for those that were left out."""
        return super().configuration | self._resolved


class _Model(NamedTuple):
    """What features are made with."""

    vqvae: VQVAE
    prior: Prior | None
    preset: str | None
    layers: tuple[int, ...]
    song_seconds: float
    card: ExtractorCard


def _own(
    folder: Path, layers: Sequence[int] | None, song_seconds: float | None, source: Source, dtype: DType
) -> _Model:
    from sonido_bench.foundation.checkpoint import load_card
    from sonido_bench.foundation.jukebox.folder import jukebox_vqvae, load_configuration, load_top_prior

    config, card = load_configuration(folder), load_card(folder)
    prior = load_top_prior(folder, config, torch_dtype(dtype)) if source == "prior" else None
    return _Model(
        jukebox_vqvae(folder),
        prior,
        None,
        tuple(config.features.layers if layers is None else layers),
        config.features.song_seconds if song_seconds is None else song_seconds,
        ExtractorCard(card.name, card.description, "Apache-2.0", card.licence, card.citation),
    )


def _published(
    checkpoint: Path, preset: str | None, layers: Sequence[int] | None, song_seconds: float | None,
    source: Source, dtype: DType, vqvae: Path | None, cache: Path | None,
) -> _Model:  # fmt: skip
    from sonido_bench.foundation.jukebox.checkpoint import load_prior, load_vqvae
    from sonido_bench.foundation.jukebox.folder import is_published, published_files
    from sonido_bench.foundation.jukebox.presets import prior_preset

    top, autoencoder = checkpoint, vqvae or checkpoint
    if checkpoint.is_dir() and is_published(checkpoint):
        files = published_files(checkpoint, preset)
        preset, top, autoencoder = files.preset, files.top, vqvae or files.vqvae
    preset, wanted, prior = preset or _PRESET, tuple(_LAYERS if layers is None else layers), None
    if source == "prior":
        config = prior_preset(preset)
        if config.upsampler is not None:
            raise ConfigError(f"{preset} is an upsampler; features come from a top prior: 5b, 5b_lyrics, 1b_lyrics")
        if not wanted or not all(0 <= layer <= config.depth for layer in wanted):
            raise ConfigError(f"Jukebox prior {preset}: expected layers from 0 to {config.depth}, got {list(wanted)}")
        prior = load_prior(preset, top, max(*wanted, 1), torch_dtype(dtype), cache)
    card = replace(_CARD, name=f"jukebox-{preset}")
    seconds = _SONG_SECONDS if song_seconds is None else song_seconds
    return _Model(load_vqvae(autoencoder), prior, preset, wanted, seconds, card)


def _layers(prior: Prior, layers: Sequence[int]) -> tuple[int, ...]:
    depth = len(prior.music.transformer.blocks)
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer <= depth for layer in layers):
        raise ConfigError(
            f"Jukebox prior {prior.config.name}: expected different layers from 0 to {depth}, got {list(layers)}"
        )
    return tuple(layers)


def _check_parts(vqvae: VQVAE, prior: Prior, pool: int) -> None:
    config, top = prior.config, vqvae.levels - 1
    found = (vqvae.config.sample_rate, vqvae.hop(top), vqvae.config.codebook_size)
    wanted = (config.sample_rate, config.hop_length, config.codebook_size)
    if prior.upsampler is not None or found != wanted or vqvae.config.hierarchical:
        raise ConfigError(
            f"Jukebox prior {config.name}: expected a top prior, and a VQ-VAE whose sample rate, top hop and codebook "
            f"are its own {wanted}, got {found}; take the two from one checkpoint"
        )
    if pool > config.context:
        raise ConfigError(f"pool must fit into a window of {config.context} codes, got {pool}")


def _top_alone(vqvae: VQVAE) -> VQVAE:
    """Take off what the top level's tokens do not need, so that it has no part in the fingerprint."""
    for level in range(vqvae.levels - 1):
        vqvae.encoders[level] = nn.Identity()
        vqvae.codebooks[level] = nn.Identity()
    vqvae.decoders = nn.ModuleList()
    return vqvae


def _shortened(prior: Prior, depth: int) -> Prior:
    """Take off the blocks behind the deepest that is asked for, and what predicts codes."""
    prior.music.transformer.blocks = prior.music.transformer.blocks[:depth]
    if not prior.music.tied:
        del prior.music.head
    return prior


def _windows(codes: int, context: int, pool: int) -> list[Window]:
    """Windows of the prior's context; frames that two share are kept from the earlier one, which has read more."""
    window, overlap = context // pool * pool, int(_OVERLAP * context) // pool * pool
    return kept_from_the_earlier(split(codes, window, overlap, pool))
