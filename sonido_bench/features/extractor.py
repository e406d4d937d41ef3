"""The contract of a frozen model that gives features (DESIGN section 3)."""

import hashlib
import inspect
from pathlib import Path
from typing import Any, ClassVar, Self

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.features.spec import ExtractorCard, FeatureSpec
from sonido_bench.features.windows import split
from sonido_bench.files import sha256_json

__all__ = ["Extractor"]


class _FrozenWhenBuilt(type):
    """Freezes an extractor after the last ``__init__`` and notes its arguments, so that no subclass has to.

    The CPU's global random state is left as it was: the network built next has the same weights with and without an
    extractor, which a paired comparison rests on. A constructor that seeds calls ``torch.default_generator``, since
    ``torch.manual_seed`` would reach the states of GPUs too.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            extractor = super().__call__(*args, **kwargs)
        bound = inspect.signature(type(extractor).__init__).bind(extractor, *args, **kwargs)
        bound.apply_defaults()
        extractor._arguments = dict(list(bound.arguments.items())[1:])
        return extractor.eval().requires_grad_(False)


class Extractor(pl.LightningModule, metaclass=_FrozenWhenBuilt):
    """A frozen model. A subclass sets ``card`` and ``spec`` and writes ``forward``.

    ``forward`` maps mono audio ``(batch, samples)``, float32 at ``spec.sample_rate``, to stream ->
    ``(batch, frames, dim)``. The samples it gets are a multiple of all hops and at least ``min_samples``; it gives at
    least ``spec.frames(stream, samples)`` frames, and what it gives beyond (as a centred STFT does) is cut off.

    Freezing is not left to subclasses or users: evaluation mode, no gradients, and ``train()`` does nothing. Tensors
    that follow from the arguments (windows, filterbanks) are buffers with ``persistent=False``: only what was learned
    counts as a weight.

    Attributes:
        card: Who made it, on what terms.
        spec: What it gives.
        window_seconds: Longer audio is run in windows of this length; ``None``: whole, whatever its length.
        overlap_seconds: What neighbouring windows share. A frame that sees less than half of it to either side comes
            out as if the audio had been run whole.
        min_samples: Shorter audio is padded with zeros at its end up to this length.
        revision: Raised when a change of the code changes the features, so that caches do not serve old ones.
    """

    card: ExtractorCard
    spec: FeatureSpec
    window_seconds: float | None = 30.0
    overlap_seconds: float = 2.0
    min_samples: int = 1
    revision: ClassVar[int] = 1
    _arguments: dict[str, Any]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever a trainer asks."""
        return super().train(False)

    @torch.no_grad()
    def extract(self, audio: Tensor) -> dict[str, Tensor]:
        """Return the features of audio.

        Args:
            audio: Mono, ``(batch, samples)`` at ``spec.sample_rate`` Hz, any length above zero.

        Returns:
            Stream to ``(batch, spec.frames(stream, samples), dim)`` float32.

        Raises:
            ValueError: If the audio has another shape, or ``forward`` breaks the promise of ``spec``.
        """
        if audio.ndim != 2 or audio.shape[1] == 0:
            raise ValueError(f"expected audio of shape (batch, samples), got {tuple(audio.shape)}")
        hop = self.spec.common_hop
        padded = _pad_to_multiple(audio.float(), hop, self.min_samples)
        windows = split(padded.shape[1], *self._window(padded.shape[1]), hop)
        parts = [self._run(padded[:, window.start : window.end]) for window in windows]
        features = {}
        for name, stream in self.spec.streams.items():
            kept = [
                part[name][:, window.kept_frames(stream.hop_length)]
                for part, window in zip(parts, windows, strict=True)
            ]
            features[name] = torch.cat(kept, dim=1)[:, : self.spec.frames(name, audio.shape[1])]
        return features

    @property
    def configuration(self) -> dict[str, Any]:
        """Constructor arguments, JSON-able, part of every cache key.

        Paths are left out: what counts is the weights that were read from them, not where they lay.
        """
        return {name: value for name, value in self._arguments.items() if not isinstance(value, Path)}

    @property
    def redrawn(self) -> nn.Module:
        """The part whose weights the ``@random`` control draws afresh: by default all of it."""
        return self

    def fingerprint(self) -> str:
        """SHA-256 over class, revision, configuration, windows and weights, in hexadecimal.

        Raises:
            TypeError: If a constructor argument is not JSON-able.
        """
        identity = {
            "class": f"{type(self).__module__}:{type(self).__qualname__}",
            "revision": self.revision,
            "configuration": self.configuration,
            "windows": [self.window_seconds, self.overlap_seconds, self.min_samples],
        }
        digest = hashlib.sha256(sha256_json(identity).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _window(self, samples: int) -> tuple[int, int]:
        """Length of a window and overlap in samples, both whole common hops."""
        if self.window_seconds is None:
            return samples, 0
        hop = self.spec.common_hop
        window = max(round(self.window_seconds * self.spec.sample_rate), self.min_samples)
        overlap = round(self.overlap_seconds * self.spec.sample_rate)
        return -(-window // hop) * hop, -(-overlap // hop) * hop

    def _run(self, audio: Tensor) -> dict[str, Tensor]:
        """Run ``forward`` and hold it to ``spec``."""
        features: dict[str, Tensor] = self(audio)
        if features.keys() != self.spec.streams.keys():
            raise ValueError(f"spec promises the streams {sorted(self.spec.streams)}, forward gave {sorted(features)}")
        for name, stream in self.spec.streams.items():
            frames = self.spec.frames(name, audio.shape[1])
            shape = tuple(features[name].shape)
            if len(shape) != 3 or shape[0] != len(audio) or shape[1] < frames or shape[2] != stream.dim:
                raise ValueError(
                    f"stream {name}: spec promises ({len(audio)}, {frames} or more, {stream.dim}), forward gave {shape}"
                )
        return {name: stream[:, : self.spec.frames(name, audio.shape[1])].float() for name, stream in features.items()}


def _pad_to_multiple(audio: Tensor, multiple: int, at_least: int) -> Tensor:
    """Append zeros until the length is a multiple and long enough."""
    length = -(-max(audio.shape[1], at_least) // multiple) * multiple
    return F.pad(audio, (0, length - audio.shape[1]))
