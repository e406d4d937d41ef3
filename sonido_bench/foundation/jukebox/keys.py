"""What the weights of Jukebox are called in OpenAI's files and in Hugging Face's, and how they are turned.

Both lists are generated from a configuration, with shapes, so that a file either is that model or is refused.
OpenAI's names are those of the modules in jukebox/vqvae and jukebox/prior (2020), Hugging Face's those of transformers
4.57, models/deprecated/jukebox. Both store the matrices of the transformers as ``(inputs, outputs)``.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import PriorConfig
from sonido_bench.foundation.jukebox.vqvae import VQVAE, VQVAEConfig

__all__ = [
    "Layout",
    "Weight",
    "differences",
    "first_blocks",
    "from_theirs",
    "hugging_face_prefix",
    "prior_weights",
    "stored_shapes",
    "to_theirs",
    "vqvae_weights",
]

Layout = Literal["official", "hugging_face"]

# ours, OpenAI's, Hugging Face's; {kind} is weight or bias, {short} its first letter, {even} twice {i}, {odd} one more,
# {next} one more than {i}, {downs} how often the encoder's block divides the rate, other words in braces are numbers
_VQVAE_NAMES = (
    ("encoders.{level}.blocks.{block}.down.{i}.conv.{kind}",
     "encoders.{level}.level_blocks.{block}.model.{i}.0.{kind}",
     "encoders.{level}.level_blocks.{block}.downsample_block.{even}.{kind}"),
    ("encoders.{level}.blocks.{block}.down.{i}.resnet.blocks.{d}.dilated.{kind}",
     "encoders.{level}.level_blocks.{block}.model.{i}.1.model.{d}.model.1.{kind}",
     "encoders.{level}.level_blocks.{block}.downsample_block.{odd}.resnet_block.{d}.conv1d_1.{kind}"),
    ("encoders.{level}.blocks.{block}.down.{i}.resnet.blocks.{d}.pointwise.{kind}",
     "encoders.{level}.level_blocks.{block}.model.{i}.1.model.{d}.model.3.{kind}",
     "encoders.{level}.level_blocks.{block}.downsample_block.{odd}.resnet_block.{d}.conv1d_2.{kind}"),
    ("encoders.{level}.blocks.{block}.project.{kind}",
     "encoders.{level}.level_blocks.{block}.model.{downs}.{kind}",
     "encoders.{level}.level_blocks.{block}.proj_out.{kind}"),
    ("decoders.{level}.blocks.{block}.project.{kind}",
     "decoders.{level}.level_blocks.{block}.model.0.{kind}",
     "decoders.{level}.level_blocks.{block}.proj_in.{kind}"),
    ("decoders.{level}.blocks.{block}.up.{i}.resnet.blocks.{d}.dilated.{kind}",
     "decoders.{level}.level_blocks.{block}.model.{next}.0.model.{d}.model.1.{kind}",
     "decoders.{level}.level_blocks.{block}.upsample_block.{even}.resnet_block.{d}.conv1d_1.{kind}"),
    ("decoders.{level}.blocks.{block}.up.{i}.resnet.blocks.{d}.pointwise.{kind}",
     "decoders.{level}.level_blocks.{block}.model.{next}.0.model.{d}.model.3.{kind}",
     "decoders.{level}.level_blocks.{block}.upsample_block.{even}.resnet_block.{d}.conv1d_2.{kind}"),
    ("decoders.{level}.blocks.{block}.up.{i}.conv.{kind}",
     "decoders.{level}.level_blocks.{block}.model.{next}.1.{kind}",
     "decoders.{level}.level_blocks.{block}.upsample_block.{odd}.{kind}"),
    ("decoders.{level}.out.{kind}", "decoders.{level}.out.{kind}", "decoders.{level}.out.{kind}"),
    ("codebooks.{level}.codes", "bottleneck.level_blocks.{level}.k", "bottleneck.level_blocks.{level}.codebook"),
)  # fmt: skip

# {stack}: music is called prior by both, lyrics.model prime_prior by OpenAI and encoder by Hugging Face
_PRIOR_NAMES = (
    ("{stack}.embedding.weight", "{stack}.x_emb.weight", "{stack}.embed_tokens.weight"),
    ("{stack}.positions", "{stack}.pos_emb.pos_emb", "{stack}.pos_emb.pos_emb"),
    ("{stack}.start", "{stack}.start_token", "{stack}.start_token"),
    ("{stack}.transformer.blocks.{n}.attention_norm.{kind}",
     "{stack}.transformer._attn_mods.{n}.ln_0.{kind}", "{stack}.transformer._attn_mods.{n}.layer_norm_0.{kind}"),
    ("{stack}.transformer.blocks.{n}.attention.project_in.{kind}",
     "{stack}.transformer._attn_mods.{n}.attn.c_attn.{short}",
     "{stack}.transformer._attn_mods.{n}.attn.c_attn.{kind}"),
    ("{stack}.transformer.blocks.{n}.attention.project_context.{kind}",
     "{stack}.transformer._attn_mods.{n}.attn.c_enc_kv.{short}",
     "{stack}.transformer._attn_mods.{n}.attn.c_enc_kv.{kind}"),
    ("{stack}.transformer.blocks.{n}.attention.project_out.{kind}",
     "{stack}.transformer._attn_mods.{n}.attn.c_proj.{short}",
     "{stack}.transformer._attn_mods.{n}.attn.c_proj.{kind}"),
    ("{stack}.transformer.blocks.{n}.mlp_norm.{kind}",
     "{stack}.transformer._attn_mods.{n}.ln_1.{kind}", "{stack}.transformer._attn_mods.{n}.layer_norm_1.{kind}"),
    ("{stack}.transformer.blocks.{n}.mlp_in.{kind}",
     "{stack}.transformer._attn_mods.{n}.mlp.c_fc.{short}", "{stack}.transformer._attn_mods.{n}.mlp.c_fc.{kind}"),
    ("{stack}.transformer.blocks.{n}.mlp_out.{kind}",
     "{stack}.transformer._attn_mods.{n}.mlp.c_proj.{short}", "{stack}.transformer._attn_mods.{n}.mlp.c_proj.{kind}"),
    ("music.head.weight", "prior.x_out.weight", "prior.fc_proj_out.weight"),
    ("labels.artist.weight", "y_emb.artist_emb.emb.weight", "metadata_embedding.artist_emb.weight"),
    ("labels.genre.weight", "y_emb.bow_genre_emb.emb.weight", "metadata_embedding.bow_genre_emb.weight"),
    ("labels.total_length.weight",
     "y_emb.total_length_emb.emb.weight", "metadata_embedding.total_length_emb.emb.weight"),
    ("labels.absolute_position.weight",
     "y_emb.absolute_pos_emb.emb.weight", "metadata_embedding.absolute_pos_emb.emb.weight"),
    ("labels.relative_position.weight",
     "y_emb.relative_pos_emb.emb.weight", "metadata_embedding.relative_pos_emb.emb.weight"),
    ("upsampler.embedding.weight", "conditioner_blocks.0.x_emb.weight", "conditioner_blocks.embed_tokens.weight"),
    ("upsampler.conv_in.{kind}",
     "conditioner_blocks.0.cond.model.0.{kind}", "conditioner_blocks.upsampler.proj_in.{kind}"),
    # "blocks", where the autoencoders have "model": OpenAI's upsamplers recomputed activations in training
    ("upsampler.stages.{i}.blocks.{d}.dilated.{kind}",
     "conditioner_blocks.0.cond.model.{next}.0.blocks.{d}.model.1.{kind}",
     "conditioner_blocks.upsampler.upsample_block.{even}.resnet_block.{d}.conv1d_1.{kind}"),
    ("upsampler.stages.{i}.blocks.{d}.mix.{kind}",
     "conditioner_blocks.0.cond.model.{next}.0.blocks.{d}.model.3.{kind}",
     "conditioner_blocks.upsampler.upsample_block.{even}.resnet_block.{d}.conv1d_2.{kind}"),
    ("upsampler.stages.{i}.upsample.{kind}",
     "conditioner_blocks.0.cond.model.{next}.1.{kind}", "conditioner_blocks.upsampler.upsample_block.{odd}.{kind}"),
    ("upsampler.norm.{kind}", "conditioner_blocks.0.ln.{kind}", "conditioner_blocks.layer_norm.{kind}"),
    ("lyrics.project.{kind}", "prime_state_proj.{short}", "encoder.proj_in.{kind}"),
    ("lyrics.norm.{kind}", "prime_state_ln.{kind}", "encoder.final_layer_norm.{kind}"),
    ("lyrics.head.weight", "prime_x_out.weight", "encoder.lm_head.weight"),
)  # fmt: skip
_STACKS = {"music": ("prior", "prior"), "lyrics.model": ("prime_prior", "encoder")}
_TRANSPOSED = re.compile(r"(?:\.(?:project_in|project_context|project_out|mlp_in|mlp_out)|^lyrics\.project)\.weight$")
_BLOCK = re.compile(r"music\.transformer\.blocks\.(?P<number>\d+)\.")
_EMBEDDING, _TIED = "music.embedding.weight", "music.head.weight"
_HUGGING_FACE_PRIORS = {128: 0, 32: 1, 8: 2}  # by hop length: top level first


@dataclass(frozen=True)
class Weight:
    """One tensor of a model, and what it is in a file.

    Attributes:
        ours: Name in ``VQVAE`` or ``Prior``.
        theirs: Name in the file.
        our_shape: In the model.
        their_shape: In the file.
        transposed: Whether rows and columns change places.
        copy: Whether it is a second copy of a tensor that has its own entry; a file may lack it.
    """

    ours: str
    theirs: str
    our_shape: tuple[int, ...]
    their_shape: tuple[int, ...]
    transposed: bool = False
    copy: bool = False

    def to_ours(self, tensor: Tensor) -> Tensor:
        """Turn a tensor of the file into the model's, contiguous."""
        return (tensor.T if self.transposed else tensor.reshape(self.our_shape)).contiguous()

    def to_theirs(self, tensor: Tensor) -> Tensor:
        """Turn a tensor of the model into the file's, contiguous."""
        return (tensor.T if self.transposed else tensor.reshape(self.their_shape)).contiguous()


@cache
def vqvae_weights(config: VQVAEConfig, layout: Layout) -> tuple[Weight, ...]:
    """Return the tensors of a VQ-VAE's file: 669 of the published one.

    Not in their files, and so not in the list: the codebooks' statistics and the bandwidths of the loss.

    Args:
        config: Of the model.
        layout: Of the file; Hugging Face's without the prefix ``vqvae.``.

    Raises:
        ConfigError: If they have no such model: it is hierarchical or does not quantise.
    """
    if config.hierarchical or config.codebook_size is None:
        raise ConfigError("files of Jukebox hold separate autoencoders with codebooks; this VQ-VAE is a variant")
    with torch.device("meta"):
        model = VQVAE(config)
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {
        f"codebooks.{level}.codes": model.codebooks.get_buffer(f"{level}.codes") for level in range(config.levels)
    }
    rename = _renamer(_VQVAE_NAMES, layout, config.downs)
    return tuple(
        Weight(name, rename(name), tuple(tensor.shape), tuple(tensor.shape[1 if name.endswith(".codes") else 0 :]))
        for name, tensor in tensors.items()
    )


@cache
def prior_weights(config: PriorConfig, layout: Layout) -> tuple[Weight, ...]:
    """Return the tensors of a prior's file: 872 of ``5b`` and ``1b_lyrics``, 1194 of ``5b_lyrics``, 1006 of upsamplers.

    Args:
        config: Of the model.
        layout: Of the file; Hugging Face's without the prefix (``hugging_face_prefix``).
    """
    rename = _renamer(_PRIOR_NAMES, layout)
    weights = []
    for name, ours in _parameter_shapes(config).items():
        theirs, transposed = ours, bool(_TRANSPOSED.search(name))
        if transposed:
            theirs = ours[::-1]
        elif name.endswith(".start"):
            theirs = (1, *ours)
        weights.append(Weight(name, rename(name), ours, theirs, transposed))
        if name == _EMBEDDING and not config.merged_decoder:
            weights.append(Weight(name, rename(_TIED), ours, theirs, copy=True))
    return tuple(weights)


def first_blocks(weights: Iterable[Weight], depth: int) -> list[Weight]:
    """Leave out the weights of a prior's blocks from ``depth`` on; the lyrics' blocks stay."""
    return [weight for weight in weights if not (found := _BLOCK.match(weight.ours)) or int(found["number"]) < depth]


def hugging_face_prefix(config: PriorConfig) -> str:
    """Return what stands before a prior's names in Hugging Face's files, where the top level comes first.

    Raises:
        ConfigError: If its models have no such level.
    """
    if config.hop_length not in _HUGGING_FACE_PRIORS:
        raise ConfigError(
            f"Hugging Face's Jukebox has levels of hop lengths {[*_HUGGING_FACE_PRIORS]}, none of {config.hop_length}; "
            "give OpenAI's file"
        )
    return f"priors.{_HUGGING_FACE_PRIORS[config.hop_length]}."


def stored_shapes(weights: Iterable[Weight]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that a file has."""
    return {weight.theirs: weight.their_shape for weight in weights}


def differences(weights: Sequence[Weight], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Compare a file with what a model needs.

    Args:
        weights: Of the model.
        found: Names and shapes in the file.

    Returns:
        One line each of what is missing, what has another shape and what is not the model's; none if all is right.
    """
    expected = stored_shapes(weights)
    optional = {weight.theirs for weight in weights if weight.copy}
    missing = [name for name in expected if name not in found and name not in optional]
    other = [
        f"{name} {shape} instead of {expected[name]}"
        for name, shape in found.items()
        if name in expected and shape != expected[name]
    ]
    extra = [name for name in found if name not in expected]
    reports = (("missing", missing), ("of another shape", other), ("not of this model", extra))
    return [
        f"{len(names)} of {len(expected)} tensors {what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        if what != "not of this model"
        else f"{len(names)} tensors {what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for what, names in reports
        if names
    ]


def from_theirs(weights: Sequence[Weight], take: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Turn a file's tensors into a model's, one by one.

    Args:
        weights: Wanted.
        take: Reads a tensor by its name in the file.

    Returns:
        Tensors by their name in the model; second copies are left out.
    """
    return {weight.ours: weight.to_ours(take(weight.theirs)) for weight in weights if not weight.copy}


def to_theirs(weights: Sequence[Weight], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a model's tensors into a file's, second copies among them.

    Args:
        weights: Of the model.
        state: Of the model, as ``state_dict`` gives it.

    Raises:
        DataError: If a tensor is missing.
    """
    if missing := [weight.ours for weight in weights if weight.ours not in state]:
        raise DataError(f"expected the state of a model with {missing[0]}; {len(missing)} tensors are missing")
    return {weight.theirs: weight.to_theirs(state[weight.ours].detach()) for weight in weights}


@cache
def _parameter_shapes(config: PriorConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Prior(config).named_parameters()}


def _renamer(names: Sequence[tuple[str, str, str]], layout: Layout, downs: Sequence[int] = ()) -> Callable[[str], str]:
    """Return a function from our names to theirs."""
    column = 0 if layout == "official" else 1
    rules = [(_pattern(ours), theirs[column]) for ours, *theirs in names]

    def rename(name: str) -> str:
        for pattern, template in rules:
            if found := pattern.fullmatch(name):
                return template.format(**_words(found.groupdict(), column, downs))
        raise ConfigError(f"weight {name} has no name in files of Jukebox")

    return rename


def _pattern(template: str) -> re.Pattern[str]:
    groups = {"kind": "weight|bias", "stack": "|".join(map(re.escape, _STACKS))}
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(
            f"(?P<{part}>{groups.get(part, '[0-9]+')})" if index % 2 else re.escape(part)
            for index, part in enumerate(parts)
        )
    )


def _words(found: Mapping[str, str], column: int, downs: Sequence[int]) -> dict[str, str | int]:
    words: dict[str, str | int] = dict(found)
    if "i" in found:
        number = int(found["i"])
        words |= {"next": number + 1, "even": 2 * number, "odd": 2 * number + 1}
    if "kind" in found:
        words["short"] = found["kind"][0]
    if "stack" in found:
        words["stack"] = _STACKS[found["stack"]][column]
    if "block" in found:
        words["downs"] = downs[int(found["block"])]
    return words
