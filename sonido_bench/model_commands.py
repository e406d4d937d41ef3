"""What each command around foundation models does; imports wait as in commands.py."""

import argparse
import sys
from pathlib import Path

from sonido_bench.errors import ConfigError, SonidoError

__all__ = ["gate", "generate", "pretrain", "reconstruct"]


def pretrain(arguments: argparse.Namespace) -> None:
    """Train a foundation model, or print what its training would take."""
    path = _shipped_config(arguments.config)
    if arguments.plan is not None:
        from sonido_bench.benchmark.listing import print_listing
        from sonido_bench.foundation.sonido.plan import memory_plan
        from sonido_bench.launch.pretraining_config import SonidoPretrainingConfig, load_pretraining

        config = load_pretraining(path, arguments.set)
        if not isinstance(config, SonidoPretrainingConfig):
            raise ConfigError(f"{path} trains a codec; --plan is for SoniDo models: leave it out")
        print_listing([part.as_row() for part in memory_plan(config.model, arguments.plan)])
        return
    from sonido_bench.launch.pretraining import pretrain as run

    folder = arguments.output or Path("results") / "pretraining" / path.stem
    run(path, folder, arguments.minutes, arguments.workers, arguments.wandb, arguments.data, arguments.set)


def _shipped_config(name: str) -> Path:
    """Return a YAML file, or a shipped one by its name."""
    from importlib.resources import files

    path, shipped = Path(name), Path(str(files("sonido_bench") / "configs" / "foundation"))
    if path.is_file():
        return path
    if (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    names = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
    raise ConfigError(f"no pre-training {name!r}; give a YAML file, or one of: {names}")


def gate(arguments: argparse.Namespace) -> None:
    """Probe the codes of a checkpoint on music that no benchmark uses.

    Raises:
        SonidoError: If the gate stays shut.
    """
    from sonido_bench.benchmark.gate import print_gate, run_gate
    from sonido_bench.benchmark.stage_one_gate import GATE_DATA, STAGE_ONE, level_rows, stage_one_rows
    from sonido_bench.datamodules.rendered import RenderedDataModule
    from sonido_bench.features.cache import FeatureCache
    from sonido_bench.foundation.checkpoint import checkpoint_folder
    from sonido_bench.foundation.codec.checkpoint import holds_codec
    from sonido_bench.foundation.sonido.checkpoint import write_gate
    from sonido_bench.launch.local import prepare_data

    folder = checkpoint_folder(arguments.checkpoint)
    if holds_codec(folder):  # before minutes of rendering
        raise ConfigError(f"{arguments.checkpoint} is a codec; the gate is for the levels of SoniDo models")
    data = RenderedDataModule(arguments.data, **GATE_DATA)
    prepare_data([data], arguments.workers)
    rows = stage_one_rows(folder, data.manifest)
    report = run_gate(rows, data.manifest, FeatureCache(arguments.cache), STAGE_ONE)
    levels = level_rows(folder, data.manifest)
    print_gate(report, arguments.format, levels)
    if arguments.card:
        write_gate(folder, tuple(report.verdict_rows()), tuple(levels))
    if not report.passed:
        raise SonidoError(f"{arguments.checkpoint} does not pass the gate; a transformer on its codes is not worth it")


def reconstruct(arguments: argparse.Namespace) -> None:
    """Write what is left of audio in the codes of each level, or codebook."""
    from rich.progress import track

    from sonido_bench.foundation.checkpoint import checkpoint_folder
    from sonido_bench.foundation.codec.checkpoint import holds_codec
    from sonido_bench.foundation.codec.reconstruction import reconstruct as reconstruct_codec
    from sonido_bench.foundation.sonido.reconstruction import reconstruct as reconstruct_sonido

    folder = checkpoint_folder(arguments.checkpoint)
    run = reconstruct_codec if holds_codec(folder) else reconstruct_sonido
    if len({path.stem for path in arguments.audio}) < len(arguments.audio):
        raise ConfigError("two of the audio files have the same name; reconstruct them into different folders")
    for path in track(arguments.audio, "reconstructing", disable=not sys.stderr.isatty()):
        for written in run(folder, path, arguments.output).values():
            print(written)


def generate(arguments: argparse.Namespace) -> None:
    """Sample music."""
    from sonido_bench.foundation.checkpoint import checkpoint_folder
    from sonido_bench.foundation.codec.checkpoint import holds_codec
    from sonido_bench.foundation.codec.generation import generate as generate_codec
    from sonido_bench.foundation.generation import GenerationConfig
    from sonido_bench.foundation.sonido.generation import generate as generate_sonido
    from sonido_bench.foundation.transformer.sampling import SamplingConfig

    config = GenerationConfig(
        seconds=arguments.seconds,
        prime=arguments.prime,
        tokens=arguments.tokens,
        embedding=arguments.embedding,
        text=arguments.text,
        clap=arguments.clap,
        hop_fraction=arguments.hop_fraction,
        sampling=SamplingConfig(arguments.temperature, arguments.top_k, arguments.top_p, arguments.guidance),
        seed=arguments.seed,
    )
    folder = checkpoint_folder(arguments.checkpoint)
    run = generate_codec if holds_codec(folder) else generate_sonido
    print(run(folder, arguments.output, config))
