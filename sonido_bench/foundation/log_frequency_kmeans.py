"""k-means codes of log-frequency patches: the cheapest tokenizer of music, a control for every learned one."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sonido_bench.errors import DataError
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec
from sonido_bench.files import atomic_path, sha256_file, write_text
from sonido_bench.foundation.codebook import kmeans, nearest
from sonido_bench.foundation.sonido.front_end import LogFrequencyFrontEnd

__all__ = ["LFK16", "fit_lfk16"]

_SAMPLE_RATE = 22_050
_FRAME_HOP = 256  # of the spectrogram
_BANDS, _BINS, _FRAMES = 16, 12, 4  # a patch is half an octave of quarter tones by 46 ms
_CODES = 256
_HOP = _FRAME_HOP * _FRAMES
_DIM = _BINS * _FRAMES
_WEIGHTS, _SUMS = "model.safetensors", "SHA256SUMS"
_MAX_BYTES = 10_000_000  # of either file; the true ones have 0.4 MB


class LFK16(Extractor):
    """Each half octave of 46 ms is replaced by the nearest of 256 patches; a frame is the 16 patches side by side.

    The patches are centroids of a log-frequency spectrogram (8 octaves from 27.5 Hz, 24 bins an octave, each bin
    standardised): 16 tokens of 8 bits a frame, 2.8 kbit/s. Nothing else is learned.

    Args:
        checkpoint: Folder as ``fit_lfk16`` writes it; ``None``: the one in the package.

    Raises:
        DataError: If the folder is not such a checkpoint, whole and unchanged.
    """

    codes: Tensor
    card = ExtractorCard(
        name="lfk16",
        description="k-means codes of log-frequency patches, without a network.",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        citation="Coates and Ng (2012), Learning Feature Representations with K-means.",
    )

    def __init__(self, checkpoint: Path | None = None) -> None:
        super().__init__()
        folder = (
            Path(str(resources.files("sonido_bench") / "checkpoints" / "lfk16")) if checkpoint is None else checkpoint
        )
        self.spec = FeatureSpec(_SAMPLE_RATE, {"codes": StreamSpec(_BANDS * _DIM, _HOP, _HOP / 2 / _SAMPLE_RATE)})
        self.front_end = _front_end()
        self.register_buffer("codes", torch.zeros(_BANDS, _CODES, _DIM))
        self.load_state_dict(_read(folder, {name: tuple(t.shape) for name, t in self.state_dict().items()}))

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Return the stream ``codes`` of ``(batch, samples)``; samples are whole frames."""
        return {"codes": self.embed(self.encode(audio))}

    def encode(self, audio: Tensor) -> Tensor:
        """Return the tokens of ``(batch, samples)``: ``(batch, samples // 1024, 16)`` int64, low bands first."""
        patches = _patches(self.front_end(audio))
        tokens = nearest(patches.flatten(0, 1).transpose(0, 1), self.codes).transpose(0, 1)
        return tokens.reshape(patches.shape[:3])

    def embed(self, tokens: Tensor) -> Tensor:
        """Look patches up: ``(batch, frames, 16)`` to ``(batch, frames, 768)``."""
        return self.codes[torch.arange(_BANDS, device=tokens.device), tokens].flatten(2)


def fit_lfk16(folder: Path, audio: Sequence[Tensor], generator: torch.Generator, patches: int = 20_000) -> None:
    """Learn the patches and write a checkpoint: weights as float16, and their SHA-256.

    Args:
        folder: Is made when missing.
        audio: Batches ``(batch, samples)`` at 22,050 Hz, samples a multiple of 1024; all are held in memory, together
            with their spectrograms.
        generator: Draws the patches that are clustered, and the start.
        patches: At most so many a band are clustered.

    Raises:
        DataError: If the audio has fewer than 256 frames, or is not finite.
    """
    front_end = _front_end()
    front_end.fit(audio)
    points = torch.cat([_patches(front_end(batch)).flatten(0, 1) for batch in audio])
    chosen = points[torch.randperm(len(points), generator=generator)[:patches]]
    codes = kmeans(chosen.transpose(0, 1), _CODES, generator=generator)
    state = {"codes": codes, **{f"front_end.{name}": value for name, value in front_end.state_dict().items()}}
    (folder / _SUMS).unlink(missing_ok=True)
    with atomic_path(folder / _WEIGHTS) as temporary:
        save_file({name: value.half().contiguous() for name, value in state.items()}, temporary)
    write_text(folder / _SUMS, f"{sha256_file(folder / _WEIGHTS)}  {_WEIGHTS}\n")


def _front_end() -> LogFrequencyFrontEnd:
    octaves = _BANDS // 2
    return LogFrequencyFrontEnd(_SAMPLE_RATE, _FRAME_HOP, 2 * _BINS, octaves)


def _patches(spectrogram: Tensor) -> Tensor:
    """Cut ``(batch, 192, 4 * frames)`` into ``(batch, frames, 16, 48)``, each patch bin by bin."""
    cut = spectrogram.reshape(len(spectrogram), _BANDS, _BINS, -1, _FRAMES)
    return cut.permute(0, 3, 1, 2, 4).flatten(3)


def _read(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read weights after checking their SHA-256, names and shapes."""
    weights, sums = folder / _WEIGHTS, folder / _SUMS
    try:
        if (largest := max(path.stat().st_size for path in (weights, sums))) > _MAX_BYTES:
            raise DataError(f"{folder}: expected files of at most {_MAX_BYTES:,} bytes, found {largest:,}")
        expected, found = sums.read_text(encoding="ascii").strip(), f"{sha256_file(weights)}  {_WEIGHTS}"
        if expected != found:
            raise DataError(f"{weights}: expected SHA-256 {expected[:64]}, found {found[:64]}; fetch it again")
        state = load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: expected {_WEIGHTS} and {_SUMS}, found: {error}; fetch them again") from error
    if {name: tuple(tensor.shape) for name, tensor in state.items()} != shapes:
        raise DataError(
            f"{weights}: expected the tensors {', '.join(sorted(shapes))}, found {', '.join(sorted(state))}"
        )
    if not all(tensor.is_floating_point() and torch.isfinite(tensor).all() for tensor in state.values()):
        raise DataError(f"{weights}: expected finite numbers; fetch it again")
    return {name: tensor.float() for name, tensor in state.items()}
