"""MusicGen's decoder of transformers with the weights of a language model of ours; for tests and benchmarks."""

from typing import Any

import torch
from torch import nn

from sonido_bench.foundation.codec.language_model import LanguageModel


def musicgen_decoder(model: LanguageModel) -> Any:
    """Return theirs, in evaluation mode; its cross-attention, to which nothing is given, keeps its own weights."""
    import transformers

    size, books = model.config.codebook_size, model.config.codebooks
    config = transformers.MusicgenDecoderConfig(
        vocab_size=size, num_codebooks=books, hidden_size=model.config.width, num_hidden_layers=model.config.depth,
        num_attention_heads=model.config.heads, ffn_dim=model.config.mlp_ratio * model.config.width,
        max_position_embeddings=model.config.context + books, dropout=0.0, pad_token_id=size, bos_token_id=size,
    )  # fmt: skip
    theirs = transformers.MusicgenForCausalLM(config).eval()
    state: dict[str, Any] = {"model.decoder.layer_norm": model.norm}
    for index, table in enumerate(model.embedding.tables.chunk(books)):
        state[f"model.decoder.embed_tokens.{index}"] = table
    for index, head in enumerate(model.heads.weight.chunk(books)):
        state[f"lm_heads.{index}"] = head
    for index, block in enumerate(model.transformer.blocks):
        state |= _layer(f"model.decoder.layers.{index}.", block)
    flat = {}
    for name, value in state.items():
        parts = dict(value.named_parameters()) if isinstance(value, nn.Module) else {"weight": value}
        flat |= {f"{name}.{part}": parameter.detach().clone() for part, parameter in parts.items()}
    missing, unexpected = theirs.load_state_dict(flat, strict=False)
    assert not unexpected
    assert all("encoder_attn" in name for name in missing)
    return theirs


def _layer(name: str, block: Any) -> dict[str, torch.Tensor | nn.Module]:
    attention = block.attention
    projections = zip("qkv", attention.project_in.weight.chunk(3), strict=True)
    return {
        **{f"{name}self_attn.{part}_proj": weight for part, weight in projections},
        f"{name}self_attn.out_proj": attention.project_out.weight,
        f"{name}self_attn_layer_norm": block.attention_norm,
        f"{name}final_layer_norm": block.mlp_norm,
        f"{name}fc1": block.mlp_in.weight,
        f"{name}fc2": block.mlp_out.weight,
    }
