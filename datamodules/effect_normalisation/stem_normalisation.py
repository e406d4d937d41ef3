"""Effect normalisation as a data module's option: averages from a file, applied to the stems of tracks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sonido_bench.datamodules.effect_normalisation.averages import EffectAverages
from sonido_bench.datamodules.effect_normalisation.normaliser import Effect, EffectNormaliser
from sonido_bench.datamodules.stems.batch import StemFormat
from sonido_bench.datamodules.stems.track import StemTrack
from sonido_bench.errors import DataError
from sonido_bench.files import sha256_json

__all__ = ["EffectNormalisation", "measure_averages"]

_REVISION = 1
"""Raised when a change of the effects' code changes the outcome, so that stored stems are made again."""


class EffectNormalisation:
    """Brings stems to stored averages: what ``normalisation`` of a data module takes.

    Can be pickled; equal inputs give equal outputs in any process.

    Args:
        averages: File that ``EffectAverages.save`` wrote; ``measure_averages`` measures them.
        effects: Which to apply; the order is always that of ``EFFECTS``.
        seed: Decides, with the names of track and stem, the reverb.

    Raises:
        ConfigError: If an effect is unknown, or given twice.
        DataError: If the averages cannot be read.
    """

    def __init__(
        self,
        averages: str | Path,
        effects: Sequence[Effect] = ("equaliser", "panning", "loudness"),
        seed: int = 0,
    ) -> None:
        self.normaliser = EffectNormaliser(EffectAverages.load(Path(averages)), effects, seed)

    @property
    def identity(self) -> str:
        """Hash of averages, effects and seed; where the averages lie does not matter."""
        normaliser = self.normaliser
        return sha256_json([_REVISION, normaliser.averages.as_dict(), list(normaliser.effects), normaliser.seed])

    def apply(self, track: str, stem: str, audio: Tensor, sample_rate: int) -> Tensor:
        """Normalise one stem.

        Args:
            track: Name of the track.
            stem: Name of the stem, as in the averages.
            audio: ``(2, samples)`` float32 in [-1, 1].
            sample_rate: In Hz.

        Returns:
            The same shape, float32.

        Raises:
            DataError: If the averages lack a stem that sounds, or are of another sample rate.
            ValueError: If the audio is not finite stereo.
        """
        wanted = self.normaliser.averages.sample_rate
        if sample_rate != wanted:
            raise DataError(
                f"{track}: expected stems at the averages' {wanted} Hz, found {sample_rate} Hz; "
                "resample them, or measure the averages at their rate"
            )
        return torch.from_numpy(self.normaliser.apply(stem, audio.numpy(), track))


def measure_averages(tracks: Iterable[StemTrack], format: StemFormat) -> EffectAverages:
    """Measure the average effects of a training set; one track is held at a time.

    Args:
        tracks: The training tracks, as a data module's ``tracks("train")`` gives them.
        format: Which stems, and at which rate; stereo.

    Raises:
        DataError: If a file cannot be read or no stem sounds.
        ValueError: If the format is not stereo.
    """
    rate = format.sample_rate
    stems = (
        zip(format.names, track.read_stems(0, track.samples(rate), format).numpy(), strict=True) for track in tracks
    )
    return EffectAverages.measure((dict(each) for each in stems), rate)
