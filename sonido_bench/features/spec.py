"""What an extractor promises: its streams, their widths and their places in time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ExtractorCard", "FeatureSpec", "FrameGrid", "StreamSpec"]


@dataclass(frozen=True)
class FrameGrid:
    """Frames at equal distances in time.

    Attributes:
        frame_rate: Frames per second (Hz).
        first_centre: Centre of frame 0, in seconds from the start of the clip.
    """

    frame_rate: float
    first_centre: float

    def __post_init__(self) -> None:
        """Refuse a rate that is not positive and finite."""
        if not (math.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise ValueError(f"frame rate must be positive, got {self.frame_rate}")

    def centres(self, frames: int) -> Tensor:
        """Return the centres of the first ``frames`` frames in seconds, float64, shape ``(frames,)``."""
        return self.first_centre + torch.arange(frames, dtype=torch.float64) / self.frame_rate


@dataclass(frozen=True)
class StreamSpec:
    """One stream of features.

    Attributes:
        dim: Channels of a frame.
        hop_length: Samples, at the extractor's sample rate, from one frame to the next.
        first_centre: Centre of the first frame, in seconds.
    """

    dim: int
    hop_length: int
    first_centre: float = 0.0

    def __post_init__(self) -> None:
        """Refuse widths and hops that are not positive."""
        if self.dim < 1 or self.hop_length < 1:
            raise ValueError(f"dim and hop_length must be at least 1, got {self.dim} and {self.hop_length}")


@dataclass(frozen=True)
class FeatureSpec:
    """All streams of an extractor.

    Attributes:
        sample_rate: Of the audio that the extractor wants, in Hz.
        streams: Name of each stream (``logmel``, ``top``, ``layer_12``) and what it holds.
    """

    sample_rate: int
    streams: Mapping[str, StreamSpec]

    def __post_init__(self) -> None:
        """Refuse a spec that promises nothing."""
        if self.sample_rate < 1 or not self.streams:
            raise ValueError(f"expected a sample rate and streams, got {self.sample_rate} Hz and {dict(self.streams)}")

    def frame_rate(self, stream: str) -> float:
        """Return the frames per second (Hz) of a stream."""
        return self.sample_rate / self.streams[stream].hop_length

    def grid(self, stream: str) -> FrameGrid:
        """Return where the frames of a stream lie in time."""
        return FrameGrid(self.frame_rate(stream), self.streams[stream].first_centre)

    def frames(self, stream: str, samples: int) -> int:
        """Return how many frames a stream has for so many samples: ``ceil(samples / hop_length)``.

        Every hop that was begun gives a frame, wherever in it the frame's centre lies. The count is additive over
        whole hops, which lets windows of a long recording be stitched without a seam.
        """
        return -(-samples // self.streams[stream].hop_length)

    @property
    def common_hop(self) -> int:
        """Least common multiple of the streams' hops, in samples: where windows may start."""
        return math.lcm(*(stream.hop_length for stream in self.streams.values()))

    @property
    def dims(self) -> dict[str, int]:
        """Width of each stream."""
        return {name: stream.dim for name, stream in self.streams.items()}


@dataclass(frozen=True)
class ExtractorCard:
    """Who made an extractor and on what terms.

    Attributes:
        name: As on the leaderboard.
        description: One sentence.
        code_licence: SPDX identifier of the code.
        weights_licence: SPDX identifier of the weights, or ``none`` where there are no weights.
        citation: A reference to cite, or where the method is defined.
    """

    name: str
    description: str
    code_licence: str
    weights_licence: str
    citation: str
