"""Runs as `sonido-bench fit` leaves them: a configuration and a checkpoint of weights that were never trained."""

from pathlib import Path

import torch
import yaml

from sonido_bench.benchmark.config import ClassConfig
from sonido_bench.benchmark.instantiate import build

RATE = 44_100
CHROMA = {"class_path": "sonido_bench.foundation.chroma.Chroma", "init_args": {}}
LOGMEL = {
    "class_path": "sonido_bench.foundation.logmel.LogMel",
    "init_args": {"sample_rate": 8000, "n_fft": 512, "hop_length": 256, "num_mels": 24, "f_min": 50.0},
}
MODELS = {
    "umx": ("umx.UMXTask", {"width": 8, "layers": 1, "n_fft": 1024, "hop_length": 512}),
    "htdemucs": (
        "htdemucs.HTDemucsTask",
        {"hidden": 8, "depth": 2, "n_fft": 1024, "t_layers": 1, "t_heads": 2, "segment_seconds": 1.0},
    ),
    "mix": ("mix_wave_unet.MixWaveUNetTask", {"layers": 3, "growth": 4, "kernel_size": 5}),
    "tags": ("tagging.TaggingTask", {"front_end": LOGMEL, "classes": ["piano", "drums"], "width": 16}),
    "notes": ("transcription.TranscriptionTask", {"front_end": LOGMEL, "width": 16}),
}


def make_run(folder: Path, name: str, extractor=None, **options) -> Path:
    """Write a run; the weights that start at zero are drawn, so that features count."""
    path, arguments = MODELS[name]
    config = {"class_path": f"sonido_bench.tasks.{path}", "init_args": {**arguments, "extractor": extractor, **options}}
    torch.manual_seed(0)
    task = build(ClassConfig(**config), {})
    for weight in task.model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": config, "data": None}))
    checkpoint = {"state_dict": task.state_dict(), "global_step": 1}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "checkpoints" / "best.ckpt")
    return folder
