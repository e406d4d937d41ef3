"""The gate that a stage 1 passes before a language model is trained on its codes.

Linear probes on validation clips tell what the frozen codes of the coarse levels hold: key, instruments, notes. What is
asked is data, and is asked in comparison with log-mel, an untrained network and k-means codes on the same clips.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonido_bench.benchmark.listing import print_listing
from sonido_bench.benchmark.probes import PROBE_METRICS, Predictions, ProbeMetric, Stream, labelled_clips, run_probes
from sonido_bench.benchmark.resampling import bootstrap_weights
from sonido_bench.benchmark.tables import TableFormat
from sonido_bench.datamodules.rendering.dataset import Manifest
from sonido_bench.errors import ConfigError
from sonido_bench.features.cache import FeatureCache
from sonido_bench.features.extractor import Extractor

__all__ = ["Criterion", "Estimate", "GateReport", "GateRow", "Verdict", "print_gate", "run_gate"]


@dataclass(frozen=True)
class GateRow:
    """What is probed.

    Attributes:
        name: Of the row.
        extractor: Rows that share one have it run once.
        streams: Of the extractor, side by side; ``None``: all.
    """

    name: str
    extractor: Extractor
    streams: Sequence[str] | None = None


@dataclass(frozen=True)
class Criterion:
    """A least score of a row, or a least lead over another row (negative: it may lag so far behind).

    Attributes:
        row: Whose score it is.
        metric: One of ``PROBE_METRICS``.
        at_least: The threshold.
        over: The row that it is compared with; ``None``: the score itself counts.
        required: Whether the gate stays shut without it; else it is a target, and only reported.
    """

    row: str
    metric: ProbeMetric
    at_least: float
    over: str | None = None
    required: bool = True


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over clips."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return ``0.712 [0.690, 0.733]``."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Verdict:
    """A criterion and what was found: the score, or the paired difference."""

    criterion: Criterion
    found: Estimate

    @property
    def passed(self) -> bool:
        """Whether the estimate reaches the threshold; the interval says how sure that is."""
        return self.found.value >= self.criterion.at_least


@dataclass(frozen=True)
class GateReport:
    """What the probes found.

    Attributes:
        data_sha256: Of the data set's manifest.
        clips: Training and validation clips.
        scores: Row to metric to its score on the validation clips.
        verdicts: In the order of the criteria.
    """

    data_sha256: str
    clips: tuple[int, int]
    scores: Mapping[str, Mapping[ProbeMetric, Estimate]]
    verdicts: Sequence[Verdict]

    @property
    def passed(self) -> bool:
        """Whether all required criteria are met."""
        return all(verdict.passed for verdict in self.verdicts if verdict.criterion.required)

    def score_rows(self) -> list[dict[str, str]]:
        """Return one line per probed row, for a listing."""
        return [{"row": row, **{metric: str(found[metric]) for metric in found}} for row, found in self.scores.items()]

    def verdict_rows(self) -> list[dict[str, str]]:
        """Return one line per criterion, for a listing."""
        return [
            {
                "criterion": _describe(verdict.criterion),
                "at least": format(verdict.criterion.at_least, "+.3f" if verdict.criterion.over else ".3f"),
                "found": str(verdict.found),
                "verdict": _VERDICTS[verdict.criterion.required, verdict.passed],
            }
            for verdict in self.verdicts
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything, JSON-able, for the model card."""
        return {
            "data_sha256": self.data_sha256,
            "clips": list(self.clips),
            "passed": self.passed,
            "scores": {row: {name: asdict(found[name]) for name in found} for row, found in self.scores.items()},
            "criteria": [
                {**asdict(verdict.criterion), **asdict(verdict.found), "passed": verdict.passed}
                for verdict in self.verdicts
            ],
        }


_VERDICTS = {(True, True): "PASS", (True, False): "FAIL", (False, True): "reached", (False, False): "missed"}


def run_gate(
    rows: Sequence[GateRow],
    manifest: Manifest,
    cache: FeatureCache,
    criteria: Sequence[Criterion] = (),
    resamples: int = 1000,
) -> GateReport:
    """Probe every row and hold it to the criteria; without criteria it compares any streams on validation.

    Args:
        rows: What is probed, named differently.
        manifest: A rendered data set; its splits ``train`` and ``validation`` are read, never ``test``.
        cache: Features are kept there, so that a control is extracted once for many gates.
        criteria: What is asked.
        resamples: Of the bootstrap; all rows and differences share them.

    Raises:
        ConfigError: If two rows have one name, a criterion names none of them, or a stream does not exist.
        CacheError: If features cannot be stored.
        DataError: If audio cannot be read.
    """
    _check(rows, criteria)
    train, validation = labelled_clips(manifest, "train"), labelled_clips(manifest, "validation")
    weights = bootstrap_weights(len(validation.clips), resamples, seed=0)
    scores: dict[str, dict[ProbeMetric, NDArray[np.float64]]] = {}
    for row in rows:
        clips = [*train.clips, *validation.clips]
        cache.extract(row.extractor, clips)
        cached = cache.streams(row.extractor.fingerprint(), clips)
        stream = Stream(row.extractor.spec, row.streams or list(row.extractor.spec.streams), cached)
        found: Predictions = run_probes(stream, train, validation)
        scores[row.name] = {metric: found.scores(metric, validation, weights) for metric in PROBE_METRICS}
    return GateReport(
        data_sha256=str(manifest.card["manifest_sha256"]),
        clips=(len(train.clips), len(validation.clips)),
        scores={row: {metric: _estimate(found[metric]) for metric in found} for row, found in scores.items()},
        verdicts=[Verdict(criterion, _estimate(_difference(criterion, scores))) for criterion in criteria],
    )


def print_gate(
    report: GateReport, style: TableFormat = "table", levels: Sequence[Mapping[str, str | float]] = ()
) -> None:
    """Print scores, verdicts and what is known of the levels to standard output; JSON holds all in one object."""
    if style == "json":
        print(json.dumps({"schema": 1, **report.as_dict(), "levels": list(levels)}, indent=2))
        return
    shown = [{name: f"{v:.4g}" if isinstance(v, float) else v for name, v in row.items()} for row in levels]
    for index, rows in enumerate(filter(None, (report.score_rows(), report.verdict_rows(), shown))):
        print("\n" if index else "", end="")
        print_listing(rows, style)


def _difference(
    criterion: Criterion, scores: Mapping[str, Mapping[ProbeMetric, NDArray[np.float64]]]
) -> NDArray[np.float64]:
    found = scores[criterion.row][criterion.metric]
    return found - scores[criterion.over][criterion.metric] if criterion.over else found


def _estimate(scores: NDArray[np.float64]) -> Estimate:
    """Return the score of the whole set, the first, with quantiles of those of the resamples, the others."""
    low, high = np.nanquantile(scores[1:], [0.025, 0.975])
    return Estimate(float(scores[0]), float(low), float(high))


def _describe(criterion: Criterion) -> str:
    subject = f"{criterion.row} {criterion.metric}"
    return f"{subject} over {criterion.over}" if criterion.over else subject


def _check(rows: Sequence[GateRow], criteria: Sequence[Criterion]) -> None:
    names = [row.name for row in rows]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"expected rows of different names, got {', '.join(names) or 'none'}")
    for criterion in criteria:
        for name in (criterion.row, criterion.over):
            if name is not None and name not in names:
                raise ConfigError(f"{_describe(criterion)}: there is no row {name!r} among {', '.join(names)}")
    for row in rows:
        if unknown := sorted(set(row.streams or ()) - set(row.extractor.spec.streams)):
            raise ConfigError(f"row {row.name}: no stream {unknown[0]!r} among {', '.join(row.extractor.spec.streams)}")
