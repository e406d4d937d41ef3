"""One LightningModule per task; each is its own feature-free baseline with ``extractor=None``."""

if __name__ != "sonido_bench.tasks":
    # A second import under another name would make second class objects, and would shadow a user's own package.
    raise ImportError(f"import sonido_bench.tasks, not {__name__}")

from sonido_bench.tasks.base import FeatureTask
from sonido_bench.tasks.crafx2 import CRAFx2Task
from sonido_bench.tasks.htdemucs import HTDemucsTask
from sonido_bench.tasks.mix_wave_unet import FxNormWaveUNetTask, MixWaveUNetTask
from sonido_bench.tasks.tagging import TaggingTask
from sonido_bench.tasks.transcription import TranscriptionTask
from sonido_bench.tasks.umx import UMXTask

__all__ = [
    "CRAFx2Task",
    "FeatureTask",
    "FxNormWaveUNetTask",
    "HTDemucsTask",
    "MixWaveUNetTask",
    "TaggingTask",
    "TranscriptionTask",
    "UMXTask",
]
