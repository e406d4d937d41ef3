"""Open-Unmix (UMX): a recurrent network per target that masks the mixture's magnitude spectrogram."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sonido_bench.nn.optional_injection import Injection, OptionalInjection
from sonido_bench.nn.published import load_published
from sonido_bench.nn.spectrogram import STFT
from sonido_bench.nn.standardise import Standardise

__all__ = ["UMX", "UMXTarget"]

_NOT_WEIGHTS = ("sample_rate", "stft.window", "transform.0.window")
"""What the files of released networks hold beside the weights."""


class UMXTarget(nn.Module):
    """The network of one target, with the names and layers of open-unmix 1.3 (model.py, ``OpenUnmix``).

    Input bins shifted and scaled, linear, (features injected), batch norm, tanh; a bidirectional LSTM; both side by
    side, linear, batch norm, ReLU; linear, batch norm, shifted and scaled; ReLU is the mask. Features join what the
    first linear layer gives, as if its input had been widened by them: batch norm and tanh treat both alike, and the
    LSTM and the connection past it see them.

    Args:
        bins: Frequencies of the spectrogram, which the mask covers.
        input_bins: Lowest frequencies, which the network sees.
        channels: Of the audio.
        width: Hidden channels, even.
        layers: Of the LSTM.
        dropout: Between them.
        feature_dims: Width of each feature stream; ``None`` is the published network.
        injection: How features enter; ``add`` starts as the network without them, bit for bit.
        injection_gain: How loud they are beside the network's own input.

    Raises:
        ValueError: If ``width`` is odd or ``input_bins`` exceeds ``bins``.
    """

    def __init__(
        self,
        bins: int,
        input_bins: int,
        channels: int,
        width: int,
        layers: int,
        dropout: float,
        feature_dims: Mapping[str, int] | None = None,
        injection: Injection = "add",
        injection_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if width % 2 or not 0 < input_bins <= bins:
            raise ValueError(f"expected an even width and 0 < input_bins <= {bins}, got {width} and {input_bins}")
        self.input_mean = nn.Parameter(torch.zeros(input_bins))
        self.input_scale = nn.Parameter(torch.ones(input_bins))
        self.fc1 = nn.Linear(channels * input_bins, width, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.lstm = nn.LSTM(
            width, width // 2, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.fc2 = nn.Linear(2 * width, width, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.fc3 = nn.Linear(width, channels * bins, bias=False)
        self.bn3 = nn.BatchNorm1d(channels * bins)
        self.output_mean = nn.Parameter(torch.ones(bins))
        self.output_scale = nn.Parameter(torch.ones(bins))
        self.inject = OptionalInjection(feature_dims, width, injection, injection_gain)

    def forward(self, magnitude: Tensor, features: dict[str, Tensor] | None = None) -> Tensor:
        """Estimate the target's magnitude.

        Args:
            magnitude: Of the mixture, ``(batch, channels, bins, frames)``.
            features: Every stream of ``feature_dims`` on the same frames, ``(batch, frames, dim)``.

        Returns:
            ``(batch, channels, bins, frames)``, not negative.

        Raises:
            ValueError: If features are given to a network without, or missing in one with.
        """
        frames = magnitude.permute(0, 3, 1, 2)  # (batch, frames, channels, bins)
        seen = (frames[..., : len(self.input_mean)] + self.input_mean) * self.input_scale
        encoded = torch.tanh(_batch_norm(self.bn1, self.inject(self.fc1(seen.flatten(2)), features)))
        context, _ = self.lstm(encoded)
        hidden = torch.relu(_batch_norm(self.bn2, self.fc2(torch.cat([encoded, context], dim=-1))))
        mask = _batch_norm(self.bn3, self.fc3(hidden)).reshape(frames.shape)
        mask = torch.relu(mask * self.output_scale + self.output_mean)
        estimate: Tensor = (mask * frames).permute(0, 2, 3, 1)
        return estimate


class UMX(nn.Module):
    """One UMX network per target, side by side; each is trained, and may be loaded, on its own.

    Defaults are those of UMXHQ: 8,893,348 parameters a target. Training takes magnitudes of frames that are not
    centred, separation of centred ones (train.py and ``Separator``); features are to be aligned to the grid of the
    transform in use: ``network.stft(centred).grid``.

    Args:
        targets: Names of the sources, in the order of the estimates.
        channels: Of the audio.
        n_fft: Of the spectrogram.
        hop_length: Of the spectrogram, in samples.
        sample_rate: Of the audio, in Hz.
        bandwidth_hz: Frequencies above are not seen by the network; the mask covers them all the same.
        width: Hidden channels, even.
        layers: Of the LSTM.
        dropout: Between them.
        feature_dims: Width of each feature stream; ``None`` is the published network.
        injection: How features enter; ``add`` starts as the network without them, bit for bit.
        injection_gain: How loud they are beside the network's own input.

    Raises:
        ValueError: If no target is named or one twice, ``width`` is odd, or ``bandwidth_hz`` is negative.
    """

    def __init__(
        self,
        targets: Sequence[str] = ("vocals", "drums", "bass", "other"),
        channels: int = 2,
        n_fft: int = 4096,
        hop_length: int = 1024,
        sample_rate: int = 44100,
        bandwidth_hz: float = 16000.0,
        width: int = 512,
        layers: int = 3,
        dropout: float = 0.4,
        feature_dims: Mapping[str, int] | None = None,
        injection: Injection = "add",
        injection_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if not targets or len(set(targets)) < len(targets):
            raise ValueError(f"expected targets of different names, got {list(targets)}")
        self.targets = tuple(targets)
        self._transforms = {centred: STFT(n_fft, hop_length, sample_rate, centred) for centred in (False, True)}
        bins = n_fft // 2 + 1
        input_bins = min(bins, int(bandwidth_hz * n_fft / sample_rate) + 1)  # those up to the bandwidth
        sizes = (bins, input_bins, channels, width, layers, dropout)
        self.networks = nn.ModuleDict(
            {target: UMXTarget(*sizes, feature_dims, injection, injection_gain) for target in self.targets}
        )

    def stft(self, centred: bool) -> STFT:
        """Return the transform for separation (centred frames) or for training (frames within the audio)."""
        return self._transforms[centred]

    def forward(self, magnitude: Tensor, features: dict[str, Tensor] | None = None) -> Tensor:
        """Estimate the magnitudes of all targets.

        Args:
            magnitude: Of the mixture, ``(batch, channels, bins, frames)``.
            features: Every stream of ``feature_dims`` on the same frames, ``(batch, frames, dim)``.

        Returns:
            ``(batch, targets, channels, bins, frames)``, not negative.

        Raises:
            ValueError: If features are given to a network without, or missing in one with.
        """
        return torch.stack([network(magnitude, features) for network in self.networks.values()], dim=1)

    @staticmethod
    def statistics_rows(magnitude: Tensor) -> Tensor:
        """Return what the input's statistics are taken over: ``(batch, frames, bins)``, the mean over channels."""
        return magnitude.mean(dim=1).transpose(1, 2)

    @torch.no_grad()
    def initialise_input(self, statistics: Standardise) -> None:
        """Start every target's input shift and scale at the statistics of the training set; they are then learned.

        Args:
            statistics: Over ``n_fft // 2 + 1`` bins, gathered from ``statistics_rows`` of the training set.

        Raises:
            ValueError: If nothing was gathered or the number of bins differs.
        """
        bins = self.stft(centred=False).bins
        if statistics.count == 0 or len(statistics.mean) != bins:
            raise ValueError(f"expected statistics of {bins} bins, got {statistics.count:g} rows")
        for network in cast(Iterable[UMXTarget], self.networks.values()):
            seen = len(network.input_mean)
            network.input_mean.copy_(-statistics.mean[:seen])
            network.input_scale.copy_(statistics.deviation[:seen].reciprocal())

    def load_target(self, target: str, state: Mapping[str, Tensor]) -> None:
        """Load the published weights of one target (umx, umxhq, umxl); injections stay as they are.

        Args:
            target: Its name.
            state: The content of a released ``.pth`` file, or ``networks[target].state_dict()`` of a baseline. The
                networks of UMXL are 1024 wide.

        Raises:
            ConfigError: If the weights are of a network of other sizes, or not of UMX.
            KeyError: If there is no such target.
        """
        load_published(self.networks[target], state, _NOT_WEIGHTS)


def _batch_norm(norm: nn.BatchNorm1d, hidden: Tensor) -> Tensor:
    """Normalise ``(batch, frames, width)`` over all frames of the batch."""
    normalised: Tensor = norm(hidden.flatten(0, 1)).reshape(hidden.shape)
    return normalised
