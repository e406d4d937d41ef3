"""Losses of Jukebox's autoencoders, and how near a reconstruction comes."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sonido_bench.errors import DataError
from sonido_bench.foundation.codebook import sum_over_processes

__all__ = [
    "STFT",
    "Bandwidth",
    "largest_squares",
    "magnitudes",
    "measure_bandwidth",
    "spectral_convergence",
    "spectral_convergence_db",
    "spectral_loss",
]

_SILENCE = 2e-3  # norm of a spectrum under which there is nothing to converge to, as in OpenAI's audio_utils.py
_SMALLEST_RATIO = 1e-10  # -200 dB


class STFT(NamedTuple):
    """A short-time Fourier transform with a periodic Hann window, its frames centred, edges mirrored.

    Attributes:
        n_fft: Points of the transform.
        hop_length: Samples between frames.
        window_length: Samples of the window, which lies in the middle of the transform's.
    """

    n_fft: int
    hop_length: int
    window_length: int


class Bandwidth(NamedTuple):
    """What losses are divided by, so that they are near 1 for an output of silence: constants of the data.

    Attributes:
        l2: Variance of the samples.
        spectral: Mean Frobenius norm of an item's magnitudes; depends on the length of items.
    """

    l2: Tensor
    spectral: Tensor


def magnitudes(audio: Tensor, stft: STFT) -> Tensor:
    """Return the magnitudes of a short-time Fourier transform, in float32 whatever autocast says.

    Args:
        audio: ``(batch, samples)``, more than half of ``n_fft``.
        stft: Which.

    Returns:
        ``(batch, n_fft // 2 + 1, 1 + samples // hop_length)``, linear, not normalised.

    Raises:
        ValueError: If the audio is too short to be mirrored at its edges.
    """
    if audio.ndim != 2 or audio.shape[1] <= stft.n_fft // 2:
        raise ValueError(
            f"expected audio (batch, samples), more than {stft.n_fft // 2} samples for an STFT of {stft.n_fft} points, "
            f"got {tuple(audio.shape)}; give longer items or configure shorter STFTs"
        )
    with torch.autocast(audio.device.type, enabled=False):
        window = torch.hann_window(stft.window_length, device=audio.device)
        spectrum = torch.stft(
            audio.float(), stft.n_fft, stft.hop_length, stft.window_length, window, return_complex=True
        )
        return spectrum.abs()


def spectral_loss(reference: Tensor, estimate: Tensor, stfts: Sequence[STFT]) -> Tensor:
    """Return the Frobenius norm of the difference of magnitudes, per item, averaged over STFTs and batch.

    Neither logarithmic nor relative, unlike most (Dhariwal et al. 2020, section 3.3; OpenAI's audio_utils.py).

    Args:
        reference: ``(batch, samples)``.
        estimate: The same shape.
        stfts: Resolutions, one after another.

    Returns:
        A scalar; Jukebox divides it by ``Bandwidth.spectral``.
    """
    norms = [_norm(magnitudes(reference, stft) - magnitudes(estimate, stft)).mean() for stft in stfts]
    return torch.stack(norms).mean()


def largest_squares(residual: Tensor, k: int) -> Tensor:
    """Return the mean of the ``k`` largest squares of each item's residual (the "linf" loss), averaged over the batch.

    Args:
        residual: ``(batch, samples)``.
        k: At most the number of samples.

    Raises:
        ValueError: If there are fewer samples.
    """
    if residual.ndim != 2 or residual.shape[1] < k:
        raise ValueError(f"expected (batch, samples), at least linf_k = {k} samples, got {tuple(residual.shape)}")
    return residual.square().topk(k, dim=1).values.mean()


def spectral_convergence(reference: Tensor, estimate: Tensor, stft: STFT) -> Tensor:
    """Return the norm of the difference of magnitudes over the norm of the reference's, averaged over items.

    Items whose reference is silent are left out (OpenAI's audio_utils.py counts them as perfect).

    Args:
        reference: ``(batch, samples)``.
        estimate: The same shape.
        stft: For the magnitudes.

    Returns:
        A scalar, 0 for perfect, 1 for an estimate of silence; 0 if all references are silent.
    """
    wanted = magnitudes(reference, stft)
    norm = _norm(wanted)
    heard = norm > _SILENCE
    ratios = torch.where(heard, _norm(wanted - magnitudes(estimate, stft)) / norm.clamp(min=_SILENCE), 0.0)
    return ratios.sum() / heard.sum().clamp(min=1)


def spectral_convergence_db(reference: Tensor, estimate: Tensor, stft: STFT) -> Tensor:
    """Return the spectral convergence in dB, lower is better: the figure of Jukebox's tables 1 to 3."""
    return 20 * spectral_convergence(reference, estimate, stft).clamp(min=_SMALLEST_RATIO).log10()


@torch.no_grad()
def measure_bandwidth(batches: Iterable[Tensor], stft: STFT) -> Bandwidth:
    """Measure what the losses are divided by, over all batches of all processes.

    Args:
        batches: ``(batch, samples)`` each, as long as items of training: the spectral norm grows with their length.
        stft: For the magnitudes.

    Raises:
        DataError: If there is no audio, or all of it is silent.
    """
    totals = torch.zeros(5, dtype=torch.float64)  # samples, their sum, their squares' sum; items, their norms' sum
    for audio in batches:
        exact = audio.double().cpu()
        norms = _norm(magnitudes(audio, stft)).double().sum().cpu()
        totals += torch.stack(
            [torch.tensor(exact.numel()), exact.sum(), exact.square().sum(), torch.tensor(len(exact)), norms]
        )
        device = audio.device
    if totals[0]:
        totals = sum_over_processes(totals.to(device, torch.float64)).cpu()
    samples, total, squares, items, norms = totals
    variance = squares / samples - (total / samples).square()
    if not variance > 0:
        raise DataError("bandwidth: expected audio that sounds, found none or only silence; give it other batches")
    return Bandwidth(variance.float(), (norms / items).float())


def _norm(magnitude: Tensor) -> Tensor:
    """Return the Frobenius norm of each item: ``(batch, bins, frames)`` to ``(batch,)``."""
    norm: Tensor = torch.linalg.vector_norm(magnitude, dim=(1, 2))
    return norm
