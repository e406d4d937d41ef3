"""Jukebox's VQ-VAE small enough for tests, and what runs it in several processes."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed as dist

from sonido_bench.foundation.jukebox.loss import STFT, measure_bandwidth
from sonido_bench.foundation.jukebox.vqvae import VQVAE, VQVAEConfig

SAMPLES = 1024
CONFIG = VQVAEConfig(
    sample_rate=8000,
    downs=(2, 1, 1),
    strides=(2, 2, 4),
    width=6,
    depth=2,
    codebook_size=16,
    code_dim=8,
    linf_k=64,
    stfts=(STFT(256, 32, 128), STFT(128, 16, 64)),
    metric_stft=STFT(256, 32, 192),
)


def vqvae(seed=0, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VQVAE(replace(CONFIG, **changes))


def started(seed=0, **changes):
    """A model that has been initialised from noise."""
    model = vqvae(seed, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.initialise([audio(4)])
    return model


def audio(rows, seed=0, samples=SAMPLES):
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(rows, samples, generator=generator)).clamp(-1, 1)


def latents(seed):
    return torch.randn(800, 1, CONFIG.code_dim, generator=torch.Generator().manual_seed(seed))


def learn(rank, processes, folder):
    """Move codebooks by this process's share of the batches, and save what comes of it; runs in child processes too."""
    if processes > 1:
        torch.set_num_threads(1)
        store = f"file://{Path(folder) / 'rendezvous'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    found = {"bandwidth": measure_bandwidth([audio(4).chunk(processes)[rank]], CONFIG.metric_stft)}
    for restart in (False, True):
        model = started(restart=restart, restart_below=1.5).train()
        torch.manual_seed(100 + rank)  # processes do not draw the same latents for restarts
        for step in (1, 2, 3):
            metrics = model(audio(4, seed=step).chunk(processes)[rank]).metrics
            state = {name: value.clone() for name, value in model.state_dict().items()}
            found[restart, step] = state | {name: metrics[name] for name in metrics if "spectral" not in name}
    for restart in (False, True):  # of latents that are the same to the last bit however they are shared out
        book = vqvae(restart=restart, restart_below=1.5).codebooks[0].train()
        book.initialise(latents(0), latents(0)[:16].transpose(0, 1))
        for step in (1, 2, 3):
            book(latents(step).chunk(processes)[rank])
            found["book", restart, step] = {name: value.clone() for name, value in book.state_dict().items()}
    torch.save(found, Path(folder) / f"{processes}-{rank}.pt")
    if processes > 1:
        dist.destroy_process_group()
