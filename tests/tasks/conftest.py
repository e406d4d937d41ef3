"""A small world for task models: two extractors, cached batches, and a trainer that prints nothing."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec
from sonido_bench.foundation.logmel import LogMel


class TwoStreams(Extractor):
    """Random projections of blocks of samples; with dropout, which must stay off."""

    card = ExtractorCard("two-streams", "For tests.", "Apache-2.0", "none", "none")

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        streams = {"slow": StreamSpec(6, 400, 0.025), "fast": StreamSpec(4, 100, 0.00625)}
        self.spec = FeatureSpec(8000, streams)
        self.scale = scale
        generator = torch.Generator().manual_seed(0)
        self.project = nn.ParameterDict(
            {name: torch.randn(stream.hop_length, stream.dim, generator=generator) for name, stream in streams.items()}
        )
        self.dropout = nn.Dropout(0.5)

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        return {
            name: self.dropout(audio.unflatten(1, (-1, len(weight))) @ weight * self.scale)
            for name, weight in self.project.items()
        }


@pytest.fixture
def front_end() -> LogMel:
    return LogMel(sample_rate=8000, n_fft=512, hop_length=256, num_mels=24, f_min=50.0)


@pytest.fixture
def extractor() -> TwoStreams:
    return TwoStreams()


@pytest.fixture
def other_extractor() -> TwoStreams:
    return TwoStreams(scale=2.0)


@pytest.fixture
def cached() -> Callable[..., dict[str, Any]]:
    """Turn a batch of audio into one from the cache."""

    def convert(batch: dict[str, Any], front_end: Extractor, extractor: Extractor | None = None) -> dict[str, Any]:
        mono = batch["audio"].mean(1)
        rest = {name: value for name, value in batch.items() if name not in ("audio", "sample_rate")}
        rest["front_end"] = front_end.extract(mono)
        return rest if extractor is None else {**rest, "features": extractor.extract(mono)}

    return convert


@pytest.fixture
def trainer() -> Callable[..., pl.Trainer]:
    def make(**options: Any) -> pl.Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        return pl.Trainer(**{**quiet, "enable_model_summary": False, "num_sanity_val_steps": 0, **options})

    return make


@pytest.fixture
def loader() -> Callable[[list[Any]], DataLoader[Any]]:
    """Wrap ready batches."""
    return lambda batches: DataLoader(batches, batch_size=None)
