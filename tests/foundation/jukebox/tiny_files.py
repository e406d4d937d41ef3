"""Jukebox's priors small enough for tests, and files of them as others write them."""

import json
from dataclasses import replace

import torch
from safetensors.torch import save_file

from sonido_bench.foundation.jukebox.keys import hugging_face_prefix, prior_weights, to_theirs, vqvae_weights
from sonido_bench.foundation.jukebox.presets import PRIORS
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import LyricEncoderConfig, LyricsConfig
from tests.foundation.jukebox.tiny_vqvae import CONFIG, started

SEPARATE = replace(
    PRIORS["tiny"], name="tiny_separate", depth=20, attention_order=10,
    lyrics=LyricsConfig(12, 9, LyricEncoderConfig(width=16, depth=2, heads=2, blocks=3)),
)  # fmt: skip
CONFIGS = {**PRIORS, "tiny_separate": SEPARATE}


def prior(name, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Prior(CONFIGS[name]).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def official(path, name, half=False, zipped=False, change=None):
    """Write a prior as OpenAI's training does; matrices of the transformer in half precision, as in 5b."""
    state = to_theirs(prior_weights(CONFIGS[name], "official"), prior(name).state_dict())
    if half:
        state = {key: tensor.half() if key.endswith(".w") else tensor for key, tensor in state.items()}
    if change is not None:
        change(state)
    model = {f"module.{key}": tensor for key, tensor in state.items()}
    content = {"hps": {"name": name, "level": 2}, "model": model, "opt": None, "step": 17}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def hugging_face(folder, names, form="model.safetensors"):
    """Write a VQ-VAE and priors as Hugging Face does, in two parts if there is an index."""
    state = {
        f"vqvae.{key}": value
        for key, value in to_theirs(vqvae_weights(CONFIG, "hugging_face"), started().state_dict()).items()
    }
    for name in names:
        theirs = to_theirs(prior_weights(CONFIGS[name], "hugging_face"), prior(name).state_dict())
        state |= {hugging_face_prefix(CONFIGS[name]) + key: value.clone() for key, value in theirs.items()}
    folder.mkdir()
    parts = {form: state}
    if form.endswith(".index.json"):
        stem, suffix = form.removesuffix(".index.json").split(".")
        keys = list(state)
        parts = {f"{stem}-{n}-of-2.{suffix}": {key: state[key] for key in keys[n - 1 :: 2]} for n in (1, 2)}
        weight_map = {key: file for file, part in parts.items() for key in part}
        (folder / form).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for file, part in parts.items():
        save_file(part, folder / file) if file.endswith(".safetensors") else torch.save(part, folder / file)
    return folder


def same(model, expected):
    expected = expected.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    return all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
