"""Linear probes: what can be read off a frozen stream without further learning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sonido_bench.benchmark.logistic import LinearProbe, choose_penalty, fit_probe
from sonido_bench.benchmark.resampling import Weights, weighted_mean, weighted_score
from sonido_bench.clips import Clip
from sonido_bench.datamodules.rendered import track_notes
from sonido_bench.datamodules.rendering.dataset import Manifest
from sonido_bench.datamodules.rendering.programs import TAGS
from sonido_bench.features.alignment import align
from sonido_bench.features.cache import CachedStreams
from sonido_bench.features.spec import FeatureSpec, FrameGrid
from sonido_bench.metrics.key import KEYS, key_scores
from sonido_bench.nn.note_targets import note_targets

__all__ = ["PROBE_METRICS", "LabelledClips", "Predictions", "ProbeMetric", "Stream", "labelled_clips", "run_probes"]

Floats = NDArray[np.floating[Any]]
ProbeMetric = Literal["key_accuracy", "key_score", "instrument_map", "note_ap"]

PROBE_METRICS: tuple[ProbeMetric, ...] = ("key_accuracy", "key_score", "instrument_map", "note_ap")

_GRID = FrameGrid(22_050 / 1024, 512 / 22_050)
"""Frames at which notes are probed, whatever the streams' own: scores at two frame rates do not compare."""
_NOTE_PENALTIES = (0.03, 0.01, 0.003, 0.001, 0.0003)
_THINNED = 8  # every so many frames choose the penalty: neighbours are nearly the same item
_BINS = 1000  # of note scores


@dataclass(frozen=True)
class LabelledClips:
    """Clips of equal length with all truths that are probed.

    Attributes:
        clips: In the order of the manifest.
        keys: Indices into ``KEYS``, ``(clips,)``.
        instruments: 0/1 for each of ``TAGS``, ``(clips, 12)``.
        notes: Per clip ``(notes, 4)``, as in ``NoteBatch``.
    """

    clips: Sequence[Clip]
    keys: NDArray[np.int64]
    instruments: NDArray[np.float64]
    notes: Sequence[Tensor]

    @property
    def note_maps(self) -> Floats:
        """Which pitches sound at the probed frames: 0/1, ``(clips, frames, 88)``."""
        frames = round(self.clips[0].seconds * _GRID.frame_rate)
        maps: Floats = note_targets(list(self.notes), frames, _GRID.frame_rate, _GRID.first_centre).frame.numpy()
        return maps


@dataclass(frozen=True)
class Stream:
    """Features of clips, side by side from one or several streams of an extractor.

    Attributes:
        spec: Of the extractor.
        names: Of its streams, in this order.
        cached: Clip's name to its features.
    """

    spec: FeatureSpec
    names: Sequence[str]
    cached: CachedStreams | Mapping[str, Mapping[str, Tensor]]

    def pooled(self, clips: Sequence[Clip]) -> Floats:
        """Return mean, standard deviation and maximum over each clip, ``(clips, 3 * dim)``."""
        rows = []
        for clip in clips:
            streams = self.cached[clip.name]
            frames = [streams[name] for name in self.names]
            rows.append(torch.cat([part for f in frames for part in (f.mean(0), f.std(0, correction=0), f.amax(0))]))
        return torch.stack(rows).numpy()

    def framewise(self, clip: Clip) -> Floats:
        """Return a clip's features at the probed frames, ``(frames, dim)``."""
        streams, frames = self.cached[clip.name], round(clip.seconds * _GRID.frame_rate)
        aligned = [align(streams[name][None], self.spec.grid(name), _GRID, frames)[0] for name in self.names]
        return torch.cat(aligned, dim=1).numpy()


@dataclass(frozen=True)
class Predictions:
    """What the probes of one stream say about clips that they were not fitted on.

    Attributes:
        keys: Logits, ``(clips, 24)``.
        instruments: Logits, ``(clips, 12)``.
        notes: Logits, ``(clips, frames, 88)``.
    """

    keys: Floats
    instruments: Floats
    notes: Floats

    def scores(self, metric: ProbeMetric, truth: LabelledClips, weights: Weights) -> NDArray[np.float64]:
        """Return a score under each column of weights on the clips, shape ``(columns,)``.

        Args:
            metric: ``key_accuracy`` and ``key_score`` (MIREX) are means over clips, ``instrument_map`` the mean over
                classes of the average precision, ``note_ap`` the average precision over all frames and pitches.
            truth: The same clips.
            weights: Whole numbers, ``(clips, columns)``, as ``bootstrap_weights`` draws them.
        """
        if metric == "note_ap":
            return _note_average_precision(truth.note_maps, self.notes, weights)
        if metric == "instrument_map":
            return weighted_score("average_precision", truth.instruments, self.instruments.astype(np.float64), weights)
        found = self.keys.argmax(axis=1)
        exact = (found == truth.keys).astype(np.float64)
        return weighted_mean(exact if metric == "key_accuracy" else key_scores(truth.keys, found), weights)


def labelled_clips(manifest: Manifest, split: Literal["train", "validation"]) -> LabelledClips:
    """Return a split of a rendered data set; there is no way to the test split."""
    tracks = manifest.split(split)
    return LabelledClips(
        clips=[
            Clip(track.name, manifest.root / track.audio, track.files[track.audio], 0.0, track.seconds)
            for track in tracks
        ],
        keys=np.array([KEYS.index(track.key) for track in tracks]),
        instruments=np.array([[float(tag in track.families) for tag in TAGS] for track in tracks]),
        notes=[track_notes(track) for track in tracks],
    )


def run_probes(stream: Stream, train: LabelledClips, validation: LabelledClips, note_clips: int = 250) -> Predictions:
    """Fit probes for key, instruments and notes on training clips and apply them to validation clips.

    Key and instruments are read from statistics over the clip, notes from each frame of 46 ms alone. Every penalty is
    chosen by cross-validation over the training clips.

    Args:
        stream: Holds the features of both.
        train: Clips to fit on.
        validation: Clips to predict.
        note_clips: Notes are fitted on so many training clips, the first.
    """
    fit_features, features = stream.pooled(train.clips), stream.pooled(validation.clips)
    note_probe = _fit_notes(stream, train, note_clips)
    return Predictions(
        keys=_fit(fit_features, np.eye(len(KEYS))[train.keys], exclusive=True)(features),
        instruments=_fit(fit_features, train.instruments, exclusive=False)(features),
        notes=np.stack([note_probe(stream.framewise(clip)) for clip in validation.clips]),
    )


def _fit(features: Floats, targets: Floats, exclusive: bool) -> LinearProbe:
    penalty = choose_penalty(features, targets, exclusive, np.arange(len(features)))
    return fit_probe(features, targets, penalty, exclusive)


def _fit_notes(stream: Stream, train: LabelledClips, note_clips: int) -> LinearProbe:
    clips, maps = train.clips[:note_clips], train.note_maps[:note_clips]
    features, targets = np.concatenate([stream.framewise(clip) for clip in clips]), np.concatenate(maps)
    groups = np.repeat(np.arange(len(clips)), maps.shape[1])
    thinned = slice(None, None, _THINNED)
    penalty = choose_penalty(features[thinned], targets[thinned], False, groups[thinned], _NOTE_PENALTIES)
    return fit_probe(features, targets, penalty, exclusive=False)


def _note_average_precision(targets: Floats, scores: Floats, weights: Weights) -> NDArray[np.float64]:
    """Average precision over all frames and pitches under weights on the clips.

    Scores are cut into bins that hold equally many positives, whose members count as tied, so that a resample of
    millions of cells is a matrix product. The result is lower than the exact one by less than ``1 / bins``.
    """
    clips = len(targets)
    positive = targets.reshape(clips, -1) > 0
    values = scores.reshape(clips, -1)
    edges = np.quantile(values[positive], np.linspace(0, 1, _BINS + 1)[1:-1])
    places = np.searchsorted(edges, values) + _BINS * np.arange(clips)[:, None]
    everything = np.bincount(places.ravel(), minlength=clips * _BINS).reshape(clips, _BINS)
    hits = np.bincount(places[positive], minlength=clips * _BINS).reshape(clips, _BINS)
    hits_in_bin, in_bin = (counts[:, ::-1].T.astype(np.float64) @ weights for counts in (hits, everything))
    found, selected = hits_in_bin.cumsum(axis=0), in_bin.cumsum(axis=0)
    precision = found / np.maximum(selected, 1)
    average: NDArray[np.float64] = (precision * hits_in_bin).sum(axis=0) / found[-1]
    return average
