"""Losses and figures of merit of the autoencoder."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.audio import power_spectrum

__all__ = ["half_log_mse", "log_spectral_distance", "multi_resolution_stft_loss", "si_snr"]

_RESOLUTIONS = ((2048, 512), (512, 128), (128, 32))  # n_fft and hop of the STFT loss
_POWER_FLOOR = 1e-8
_MSE_FLOOR = 1e-10  # where the decoder's variance stops shrinking


def half_log_mse(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return ``0.5 log(mean squared error)``: nats per data dimension.

    That is ``(D/2) log(sum of squared errors)``, divided by ``D`` and less a constant: the reconstruction term of
    SQ-VAE with the decoder's variance at its optimum (Takida et al. 2022, section 3).
    """
    return 0.5 * (reference - estimate).square().mean().clamp(min=_MSE_FLOOR).log()


def multi_resolution_stft_loss(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return spectral convergence plus mean absolute log-magnitude difference, averaged over three resolutions.

    As in Parallel WaveGAN (Yamamoto et al. 2020), in float32 whatever autocast says.

    Args:
        reference: ``(batch, samples)``.
        estimate: The same shape.
    """
    with torch.autocast(reference.device.type, enabled=False):
        losses = []
        for n_fft, hop_length in _RESOLUTIONS:
            window = torch.hann_window(n_fft, device=reference.device)
            pair = torch.stack([reference.float(), estimate.float()]).flatten(0, 1)
            wanted, found = (power_spectrum(pair, window, hop_length) + _POWER_FLOOR).sqrt().chunk(2)
            convergence = torch.linalg.vector_norm(wanted - found) / torch.linalg.vector_norm(wanted)
            losses.append(convergence + F.l1_loss(found.log(), wanted.log()))
        return torch.stack(losses).mean()


def si_snr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-noise ratio in dB, averaged over the batch; ``(batch, samples)`` each."""
    reference = reference - reference.mean(dim=-1, keepdim=True)
    estimate = estimate - estimate.mean(dim=-1, keepdim=True)
    energy = reference.square().sum(dim=-1, keepdim=True) + _POWER_FLOOR
    target = (estimate * reference).sum(dim=-1, keepdim=True) / energy * reference
    noise = (estimate - target).square().sum(dim=-1) + _POWER_FLOOR
    return (10 * torch.log10((target.square().sum(dim=-1) + _POWER_FLOOR) / noise)).mean()


def log_spectral_distance(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the root mean square difference over a frame's bins in dB, averaged over frames and batch.

    Args:
        reference: ``(batch, bins, frames)`` log power in nats.
        estimate: The same shape.
    """
    decibels = (reference - estimate) * (10 / torch.tensor(10.0).log())
    return decibels.square().mean(dim=1).sqrt().mean()
