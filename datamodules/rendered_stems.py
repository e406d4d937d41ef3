"""Rendered music for separation and mixing, besides all that ``rendered`` is for."""

from pathlib import Path
from typing import Any, get_args

from torch.utils.data import DataLoader

from sonido_bench.clips import Clip
from sonido_bench.datamodules.base import CachedStreams
from sonido_bench.datamodules.mix_inputs import MixInputJob, RenderedInputJob, StemNormalisation, dry_track, wet_track
from sonido_bench.datamodules.musdb18 import STEMS
from sonido_bench.datamodules.rendered import LabelledSplit, RenderedDataModule, Target
from sonido_bench.datamodules.rendering.track import Track
from sonido_bench.datamodules.stem_augmentation import AugmentedStems, StemAugmentationConfig
from sonido_bench.datamodules.stems.batch import StemFormat, StemTarget
from sonido_bench.datamodules.stems.clips import StemClips, evaluation_clips, training_clips
from sonido_bench.datamodules.stems.datamodule import STAGES, check_loading, refuse_cache
from sonido_bench.datamodules.stems.loaders import evaluation_loader, training_loader
from sonido_bench.datamodules.stems.track import StemTrack
from sonido_bench.errors import ConfigError, DataError

__all__ = ["RenderedStemsDataModule"]


class RenderedStemsDataModule(RenderedDataModule):
    """``rendered`` with two more targets, ``stems`` and ``mix``; for the others it is ``RenderedDataModule``.

    ``stems`` (separation): the mix, and the wet stems vocals, drums, bass and other that add up to it within the
    rounding of 16-bit files. ``mix`` (mixing): the dry stems grouped in the same way, and the mix that the desk made
    of them. Batches are ``StemBatch`` of whole tracks, or of ``segment_seconds`` of training tracks. Cached features
    are those of the mix's file, shared with the other targets, and in mixing those of a mono downmix of the dry
    stems, a file that the preparation adds: 32-bit float, so that online and cached features agree.

    Args:
        root: Folder of the data; each version has a folder of its own in it.
        target: What is to be learned.
        seconds: Length of a track.
        train_tracks: Tracks of the training split.
        validation_tracks: Tracks of the validation split.
        test_tracks: Tracks of the test split.
        data_seed: Of the music.
        soundfont: A General MIDI soundfont; ``None`` for the one in pretty_midi's wheel.
        segment_seconds: Length of a training segment of ``stems`` and ``mix``; ``None`` for whole tracks.
        augmentation: What happens to training stems; ``None``: nothing, and features can be cached.
        normalisation: Of the dry stems, done once and stored; ``None``: as they were played.
        fraction: Share of the training tracks that is used, in (0, 1].
        seed: Decides that share, the order of training and what the augmentation draws.
        batch_size: Clips of a batch.
        num_workers: Processes that render, and that read audio.
        batches_per_epoch: ``None`` for one pass over the training clips.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        root: str | Path = "data/rendered",
        target: Target | StemTarget = "stems",
        seconds: float = 6.0,
        train_tracks: int = 600,
        validation_tracks: int = 150,
        test_tracks: int = 500,
        data_seed: int = 0,
        soundfont: str | None = None,
        segment_seconds: float | None = None,
        augmentation: StemAugmentationConfig | None = None,
        normalisation: StemNormalisation | None = None,
        fraction: float = 1.0,
        seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        batches_per_epoch: int | None = None,
    ) -> None:
        if target not in (known := (*get_args(Target), *get_args(StemTarget))):
            raise ConfigError(f"target must be one of {', '.join(known)}, got {target!r}")
        stem_target: StemTarget | None = "stems" if target == "stems" else "mix" if target == "mix" else None
        labelled: Any = "instruments" if stem_target else target
        check_loading(batch_size, num_workers, batches_per_epoch, segment_seconds)
        if segment_seconds is not None and segment_seconds > seconds:
            raise ConfigError(f"segment_seconds must be at most seconds, got {segment_seconds:g} and {seconds:g}")
        super().__init__(
            root,
            labelled,
            seconds,
            train_tracks,
            validation_tracks,
            test_tracks,
            True,
            data_seed,
            soundfont,
            fraction,
            seed,
            batch_size,
            num_workers,
            batches_per_epoch,
        )
        self.format = None if stem_target is None else StemFormat(STEMS, stem_target)
        self.segment_seconds = segment_seconds
        self.augmentation = augmentation
        self.normalisation = normalisation
        self._stem_datasets: dict[LabelledSplit, StemClips | AugmentedStems] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the target's classes or outputs, or of the stems; none for notes."""
        return super().classes if self.format is None else self.format.names

    @property
    def input_folder(self) -> Path:
        """Where the inputs of mixing lie that the preparation adds."""
        return self.folder / "mixing" / ("dry" if self.normalisation is None else self.normalisation.identity[:12])

    # --- preparation ------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Render what is missing, and make the inputs of mixing."""
        super().prepare_data()
        self._make_inputs()

    def finish_preparation(self) -> None:
        """Write the manifest of the rendered tracks, and make the inputs of mixing.

        Raises:
            DataError: If a track is missing, or a file cannot be written.
        """
        super().finish_preparation()
        self._make_inputs()

    def preparation_jobs(self) -> list[Any]:
        """Return what is left to render and, in mixing, to make of it; ``finish_preparation`` follows."""
        jobs = super().preparation_jobs()
        if self.format is None or self.format.target == "stems":
            return list(jobs)
        rendered = [] if jobs else self._missing_inputs()
        return [RenderedInputJob(job, self.input_folder, self.normalisation) for job in jobs] + rendered

    def _missing_inputs(self) -> list[Any]:
        try:
            jobs = [self.input_job(track) for track in self.manifest.tracks]
        except DataError:  # all is rendered, but there is no manifest yet
            return []
        return [job for job in jobs if not job.done]

    def _make_inputs(self) -> None:
        if self.format is not None and self.format.target == "mix":
            for job in self._missing_inputs():
                job()

    def input_job(self, track: Track) -> "MixInputJob":
        """Return how the input of mixing is made for a track."""
        return MixInputJob(dry_track(self.folder, track), self.input_folder / track.name, self.normalisation)

    # --- tracks and clips -------------------------------------------------------------------------------------------

    def tracks(self, split: LabelledSplit) -> list[StemTrack]:
        """Return the tracks of a split, to be read as one likes; of ``train`` the chosen share, in a random order.

        Raises:
            ConfigError: If the target is not ``stems`` or ``mix``.
            DataError: If the data are not prepared.
        """
        target = self._format.target
        tracks = self._tracks(split)
        return [wet_track(self.folder, track) if target == "stems" else self._input(track) for track in tracks]

    def clips(self, split: LabelledSplit) -> list[Clip]:
        """Return the clips of a split as parts of the files whose features belong to them.

        Raises:
            ConfigError: If training clips are drawn anew for every step.
            DataError: If the data are not prepared.
        """
        if self.format is None:
            return super().clips(split)
        refuse_cache(self.augmentation)
        dataset = self._stem_dataset(split)
        assert isinstance(dataset, StemClips)  # nothing is drawn
        return [clip.feature_clip for clip in dataset.clips]

    def attach(self, front_end: CachedStreams | None, features: CachedStreams | None) -> None:
        """Let batches carry cached streams; they must hold every clip that is asked for later.

        Raises:
            ConfigError: If training clips are drawn anew for every step.
        """
        if self.format is not None and (front_end is not None or features is not None):
            refuse_cache(self.augmentation)
        super().attach(front_end, features)
        self._stem_datasets.clear()

    def setup(self, stage: str | None = None) -> None:
        """Build the data sets of a stage."""
        if self.format is None:
            super().setup(stage)
        else:
            for split in STAGES[stage]:
                self._stem_dataset(split)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, in an order that follows from seed and step."""
        if self.format is None:
            return super().train_dataloader()
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        dataset, batches = self._stem_dataset("train"), self.batches_per_epoch
        return training_loader(dataset, self.batch_size, self.num_workers, self.seed, batches, rank, processes)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return all validation tracks in the manifest's order."""
        return super().val_dataloader() if self.format is None else self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return all test tracks in the manifest's order."""
        return super().test_dataloader() if self.format is None else self._evaluation_loader("test")

    @property
    def _format(self) -> StemFormat:
        if self.format is None:
            raise ConfigError(f"target {self.target!r} has no stems; choose `stems` or `mix`")
        return self.format

    def _evaluation_loader(self, split: LabelledSplit) -> DataLoader[Any]:
        dataset = self._stem_dataset(split)
        assert isinstance(dataset, StemClips)  # only training clips are drawn
        return evaluation_loader(dataset, self.batch_size, self.num_workers)

    def _stem_dataset(self, split: LabelledSplit) -> StemClips | AugmentedStems:
        if split not in self._stem_datasets:
            tracks, rate = self.tracks(split), self._format.sample_rate
            if split == "train" and self.augmentation is not None:
                seconds = self.segment_seconds or self.config.seconds
                self._stem_datasets[split] = AugmentedStems(tracks, self._format, seconds, self.augmentation, self.seed)
            else:
                fixed = training_clips(tracks, self.segment_seconds, rate) if split == "train" else None
                clips = StemClips(evaluation_clips(tracks, None, rate) if fixed is None else fixed, self._format)
                clips.attach(self._front_end, self._features)
                self._stem_datasets[split] = clips
        return self._stem_datasets[split]

    def _input(self, track: Track) -> StemTrack:
        job = self.input_job(track)
        if not job.done:
            raise DataError(f"{self.folder}: the input of mixing of {track.name} is missing; prepare the data first")
        return job.result
