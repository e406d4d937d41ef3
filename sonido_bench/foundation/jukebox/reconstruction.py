"""What is left of audio in the codes of each level of Jukebox's VQ-VAE."""

from pathlib import Path

import torch
from torch.nn import functional as F

from sonido_bench.audio import read_mono, write_audio
from sonido_bench.foundation.jukebox.folder import jukebox_vqvae
from sonido_bench.foundation.jukebox.long_audio import decode_long, encode_long

__all__ = ["reconstruct"]


@torch.no_grad()
def reconstruct(checkpoint: Path, audio: Path, output: Path, device: str = "cpu") -> dict[str, Path]:
    """Write what is left of audio in the codes of each level alone: every level has an autoencoder of its own.

    Args:
        checkpoint: A folder as pre-training writes it, or of published weights; priors are not read.
        audio: A file of any sample rate; its channels are averaged.
        output: Folder of the results ``<stem>.level_2.wav`` (the coarsest) and so on, mono, at the model's rate and as
            long as the audio; is made when missing.
        device: To compute on.

    Returns:
        Level to the file.

    Raises:
        DataError: If the checkpoint or the audio cannot be read, or a result cannot be written.
    """
    vqvae = jukebox_vqvae(checkpoint).to(device)
    samples = read_mono(audio, vqvae.config.sample_rate).to(device)
    length = samples.shape[1]
    whole = F.pad(samples, (0, -length % vqvae.common_hop))
    output.mkdir(parents=True, exist_ok=True)
    paths = {}
    for level in range(vqvae.levels - 1, -1, -1):
        name = f"level_{level}"
        paths[name] = output / f"{audio.stem}.{name}.wav"
        decoded = decode_long(vqvae, encode_long(vqvae, whole, level), level)
        write_audio(paths[name], decoded[:, :length].cpu(), vqvae.config.sample_rate)
    return paths
