"""Stems changed and mixed anew, so that a separation model sees more music than there are tracks.

Visit ``n``, and so every batch, is a function of seed and ``n`` alone. No cached features fit such audio: the
foundation model must hear the mixture that was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonido_bench.batches import StemBatch
from sonido_bench.datamodules.stems.batch import StemFormat, downmix
from sonido_bench.datamodules.stems.track import StemTrack
from sonido_bench.datamodules.time_stretch import repitch
from sonido_bench.errors import ConfigError

__all__ = ["FXNORM", "HTDEMUCS", "UMX", "AugmentedStems", "StemAugmentationConfig", "StemChange"]

_TEMPO_MARGIN = 1.01  # a change of pitch is up to 4 cents off, and lengths are rounded

_ORDER, _VISIT, _REMIX = 0, 1, 2  # streams of the seed


@dataclass(frozen=True)
class StemAugmentationConfig:
    """What may happen to the stems of a training segment; without arguments, a random start and nothing else.

    In mixing the target is left as it is, so that only gain, swap and sign are possible there: a network learns to
    mix stems well however they come.

    Attributes:
        random_tracks: Whether each stem is of a track drawn for it, with replacement, at a start of its own.
        shift_seconds: Each stem of a track is shifted against the others by up to this.
        gain: Range of the factor of each stem.
        gain_probability: Of a gain.
        swap_probability: Of exchanging left and right, for each stem.
        sign_probability: Of turning the waveform over, for each stem.
        remix_group: Stems change places within groups of so many segments of a batch; 1 for none.
        repitch_probability: Of a change of pitch and tempo, the same for all stems.
        semitones: Most by which the pitch changes, in whole semitones.
        tempo_deviation: Standard deviation of the tempo's change.
        tempo_limit: Most by which the tempo changes, below 1.
    """

    random_tracks: bool = False
    shift_seconds: float = 0.0
    gain: tuple[float, float] = (0.25, 1.25)
    gain_probability: float = 0.0
    swap_probability: float = 0.0
    sign_probability: float = 0.0
    remix_group: int = 1
    repitch_probability: float = 0.0
    semitones: int = 2
    tempo_deviation: float = 0.05
    tempo_limit: float = 0.12

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("gain_probability", "swap_probability", "sign_probability", "repitch_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augmentation.{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.gain[0] <= self.gain[1]:
            raise ConfigError(f"augmentation.gain must be a range from low to high, got {list(self.gain)}")
        if not (0 <= self.semitones <= 12 and self.tempo_deviation >= 0 and 0 <= self.tempo_limit < 1):
            raise ConfigError(
                "augmentation: expected semitones in 0..12, tempo_deviation of at least 0 and tempo_limit in [0, 1), "
                f"got {self.semitones}, {self.tempo_deviation:g} and {self.tempo_limit:g}"
            )
        if self.shift_seconds < 0 or self.remix_group < 1:
            raise ConfigError(
                "augmentation: expected shift_seconds of at least 0 and remix_group of at least 1, "
                f"got {self.shift_seconds:g} and {self.remix_group}"
            )

    @property
    def parts_stems(self) -> bool:
        """Whether stems of one segment may come from different music, or no longer fit a mix in a file."""
        return self.random_tracks or self.shift_seconds > 0 or self.remix_group > 1 or self.repitch_probability > 0

    def draw(self, stems: int, tracks: int, rng: np.random.Generator) -> "StemChange":
        """Return the changes of one segment.

        Args:
            stems: Their number.
            tracks: Number of tracks to draw from.
            rng: All is drawn whether it is used or not: a value that changes leaves the other draws as they were.
        """
        chosen, start, gains = rng.random((3, stems)), rng.random(), rng.uniform(*self.gain, stems)
        starts, shifts, sources = rng.random(stems), rng.random(stems), rng.integers(tracks, size=stems)
        repitched, semitones = rng.random(), int(rng.integers(-self.semitones, self.semitones + 1))
        change = float(np.clip(rng.normal(0, self.tempo_deviation), -self.tempo_limit, self.tempo_limit))
        changes = repitched < self.repitch_probability
        return StemChange(
            tracks=tuple(map(int, sources)) if self.random_tracks else None,
            starts=tuple(map(float, starts if self.random_tracks else np.full(stems, start))),
            shifts=tuple(map(float, shifts)),
            gains=tuple(map(float, np.where(chosen[0] < self.gain_probability, gains, 1.0))),
            swaps=tuple(map(bool, chosen[1] < self.swap_probability)),
            signs=tuple(np.where(chosen[2] < self.sign_probability, -1, 1).tolist()),
            semitones=semitones if changes else 0,
            tempo=1 + change if changes else 1.0,
        )


UMX = StemAugmentationConfig(random_tracks=True, gain_probability=1.0, swap_probability=0.5)
"""As Open-Unmix trains: open-unmix-pytorch, openunmix/data.py."""

HTDEMUCS = StemAugmentationConfig(
    shift_seconds=1.0,
    gain_probability=1.0,
    swap_probability=0.5,
    sign_probability=0.5,
    remix_group=4,
    repitch_probability=0.2,
)
"""As Hybrid Transformer Demucs trains: demucs, conf/config.yaml, augment.py and repitch.py."""

FXNORM = StemAugmentationConfig(swap_probability=0.5)
"""As FxNorm-automix trains: of the inputs alone; FxNorm-automix, common_dataprocessing.py."""


@dataclass(frozen=True)
class StemChange:
    """What happens to one segment; the tuples have a value per stem.

    Attributes:
        tracks: Numbers of the stems' tracks, or ``None`` for the visit's own.
        starts: Where each stem starts, as a share of what its track has room for.
        shifts: Its shift, as a share of the largest.
        gains: Its factor.
        swaps: Whether left and right are exchanged.
        signs: 1 or -1.
        semitones: Change of pitch of all.
        tempo: Above 1 is faster.
    """

    tracks: tuple[int, ...] | None
    starts: tuple[float, ...]
    shifts: tuple[float, ...]
    gains: tuple[float, ...]
    swaps: tuple[bool, ...]
    signs: tuple[int, ...]
    semitones: int
    tempo: float

    def apply(self, stems: Tensor) -> Tensor:
        """Apply gains, swaps and signs to ``(stems, channels, samples)``; channels other than two are not swapped."""
        factors = torch.tensor([gain * sign for gain, sign in zip(self.gains, self.signs, strict=True)])
        swapped = torch.stack([stem.flip(0) if swap else stem for stem, swap in zip(stems, self.swaps, strict=True)])
        return (swapped if stems.shape[1] == 2 else stems) * factors[:, None, None]


class AugmentedStems(Dataset[StemBatch]):
    """Segments of training tracks without end; item ``n`` is the n-th visit.

    Tracks come in random permutations that follow one another. A track that is shorter than a segment is followed by
    zeros. In separation the mixture is the sum of the changed stems, in mixing it is the track's own.

    Args:
        tracks: To draw from.
        format: Of the batches.
        seconds: Length of a segment.
        config: What may happen.
        seed: Decides all that is random.

    Raises:
        ConfigError: If there is no track, or in mixing the target would no longer fit the stems.
    """

    augmented = True

    def __init__(
        self,
        tracks: Sequence[StemTrack],
        format: StemFormat,
        seconds: float,
        config: StemAugmentationConfig,
        seed: int,
    ) -> None:
        if not tracks:
            raise ConfigError("expected one or more training tracks, found none")
        if format.target == "mix" and config.parts_stems:
            raise ConfigError(
                "a mix does not follow changes of tracks, time or pitch of its stems: for target `mix`, leave out "
                "random_tracks, shift_seconds, remix_group and repitch_probability"
            )
        self.tracks = list(tracks)
        self.format = format
        self.samples = round(seconds * format.sample_rate)
        self.config = config
        self.seed = seed
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def segments(self) -> int:
        """How many segments as much audio as the tracks hold would fill."""
        total = sum(track.samples(self.format.sample_rate) for track in self.tracks)
        return max(1, total // self.samples)

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch that does not divide into groups.

        Raises:
            ConfigError: If so.
        """
        group = self.config.remix_group
        if batch_size % group:
            raise ConfigError(f"batch_size must be a multiple of remix_group, got {batch_size} and {group}")

    def __getitem__(self, visit: int) -> StemBatch:
        """Return a batch of one visit, which cannot be remixed."""
        return self._batch([visit])

    def __getitems__(self, visits: list[int]) -> StemBatch:
        """Return a batch of visits, remixed.

        Raises:
            ConfigError: If they do not divide into groups.
            DataError: If a file cannot be read.
        """
        self.check_batch_size(len(visits))
        return self._batch(visits)

    def _batch(self, visits: list[int]) -> StemBatch:
        names, stems, mixtures = zip(*(self._segment(visit) for visit in visits), strict=True)
        stacked = self._remix(torch.stack(stems), visits[0])
        mixing = self.format.target == "mix"
        mixture = torch.stack(mixtures) if mixing else stacked.sum(dim=1)
        return StemBatch(
            clip=[f"visit {visit}" for visit in visits],
            seconds=self.samples / self.format.sample_rate,
            sample_rate=self.format.sample_rate,
            audio=downmix(stacked) if mixing else mixture,
            track=list(names),
            start=[0.0] * len(visits),
            stem_names=self.format.names,
            stems=stacked,
            mixture=mixture,
            augmented=True,
        )

    def _own_track(self, visit: int) -> int:
        turn, place = divmod(visit, len(self.tracks))
        if self._order[0] != turn:
            order = np.random.default_rng((self.seed, _ORDER, turn)).permutation(len(self.tracks))
            self._order = turn, [int(index) for index in order]
        return self._order[1][place]

    def _segment(self, visit: int) -> tuple[str, Tensor, Tensor]:
        """Return the names of the tracks, the changed stems and, in mixing, the mix."""
        names = self.format.names
        change = self.config.draw(len(names), len(self.tracks), np.random.default_rng((self.seed, _VISIT, visit)))
        tracks = change.tracks or (self._own_track(visit),) * len(names)
        label = " + ".join(dict.fromkeys(self.tracks[track].name for track in tracks))
        if self.format.target == "mix":
            track = self.tracks[tracks[0]]
            start = self._start(track, change.starts[0], self.samples)
            stems, mixture = track.read(start, self.samples, self.format)
            return label, change.apply(stems), mixture
        stems = torch.stack([self._stem(place, self.tracks[track], change) for place, track in enumerate(tracks)])
        return label, change.apply(stems), torch.empty(0)

    def _stem(self, place: int, track: StemTrack, change: StemChange) -> Tensor:
        """Read a stem, with room for a change of tempo and a shift."""
        rate, room = self.format.sample_rate, round(self.config.shift_seconds * self.format.sample_rate)
        changed = change.semitones != 0 or change.tempo != 1
        wanted = self.samples + room
        length = ceil(wanted * change.tempo * _TEMPO_MARGIN) if changed else wanted
        start = self._start(track, change.starts[place], length)
        stem = track.read_stem(self.format.names[place], start, length, self.format)
        if changed:
            stem = repitch(stem, change.semitones, change.tempo, rate)
        shift = round(change.shifts[place] * room)
        return stem[:, shift : shift + self.samples]

    def _start(self, track: StemTrack, share: float, length: int) -> int:
        return round(share * max(0, track.samples(self.format.sample_rate) - length))

    def _remix(self, stems: Tensor, first: int) -> Tensor:
        """Let each stem change places within its group; stems are ``(batch, stems, channels, samples)``."""
        group, (batch, count) = self.config.remix_group, stems.shape[:2]
        if group == 1 or batch == 1:
            return stems
        keys = np.random.default_rng((self.seed, _REMIX, first)).random((batch // group, group, count))
        places = np.argsort(keys, axis=1) + np.arange(0, batch, group)[:, None, None]
        chosen = torch.from_numpy(places.reshape(batch, count))
        return stems[chosen, torch.arange(count)]
