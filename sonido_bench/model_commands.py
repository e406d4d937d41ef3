"""What each command around foundation models does; imports wait as in commands.py."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sonido_bench.errors import ConfigError, SonidoError

if TYPE_CHECKING:
    from sonido_bench.foundation.jukebox.labels import LabelIds
    from sonido_bench.foundation.jukebox.parts import JukeboxParts
    from sonido_bench.foundation.transformer.sampling import SamplingConfig

__all__ = ["gate", "generate", "pretrain", "reconstruct"]

# None where they are not given
_JUKEBOX_OPTIONS = ("finest", "song_seconds", "artist", "genre", "lyrics", "ids", "preset", "cache", "dtype")
_FOLLOWING_OPTIONS = ("embedding", "text", "clap", "guidance")


def pretrain(arguments: argparse.Namespace) -> None:
    """Train a foundation model, or print what its training would take."""
    path = _shipped_config(arguments.config)
    if arguments.plan is not None:
        from sonido_bench.benchmark.listing import print_listing
        from sonido_bench.foundation.sonido.plan import memory_plan
        from sonido_bench.launch.pretraining_config import SonidoPretrainingConfig, load_pretraining

        config = load_pretraining(path, arguments.set)
        if not isinstance(config, SonidoPretrainingConfig):
            raise ConfigError(f"{path} trains another family of models; --plan is for SoniDo models: leave it out")
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
    from sonido_bench.foundation.family import model_family
    from sonido_bench.foundation.sonido.checkpoint import write_gate
    from sonido_bench.launch.local import prepare_data

    folder = checkpoint_folder(arguments.checkpoint)
    if (family := model_family(folder)) != "sonido":  # before minutes of rendering
        raise ConfigError(f"{arguments.checkpoint} is a {family}; the gate is for the levels of SoniDo models")
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
    from sonido_bench.foundation.codec.reconstruction import reconstruct as reconstruct_codec
    from sonido_bench.foundation.family import model_family
    from sonido_bench.foundation.jukebox.reconstruction import reconstruct as reconstruct_jukebox
    from sonido_bench.foundation.sonido.reconstruction import reconstruct as reconstruct_sonido

    folder, device = checkpoint_folder(arguments.checkpoint), _device(arguments)
    families = {"sonido": reconstruct_sonido, "codec": reconstruct_codec, "jukebox": reconstruct_jukebox}
    run = families[model_family(folder)]
    if len({path.stem for path in arguments.audio}) < len(arguments.audio):
        raise ConfigError("two of the audio files have the same name; reconstruct them into different folders")
    for path in track(arguments.audio, "reconstructing", disable=not sys.stderr.isatty()):
        for written in run(folder, path, arguments.output, device).values():
            print(written)


def generate(arguments: argparse.Namespace) -> None:
    """Sample music."""
    from sonido_bench.foundation.checkpoint import checkpoint_folder
    from sonido_bench.foundation.family import model_family

    folder = checkpoint_folder(arguments.checkpoint)
    family = model_family(folder)
    if family == "jukebox":
        print(_generate_jukebox(folder, arguments))
    else:
        print(_generate(folder, family, arguments))


def _generate(folder: Path, family: str, arguments: argparse.Namespace) -> Path:
    """Sample from a SoniDo model or a codec."""
    from sonido_bench.foundation.codec.generation import generate as generate_codec
    from sonido_bench.foundation.generation import GenerationConfig
    from sonido_bench.foundation.sonido.generation import generate as generate_sonido

    _refuse(arguments, _JUKEBOX_OPTIONS, f"{arguments.checkpoint} is no Jukebox")
    hops = arguments.hop_fraction or [0.5]
    if len(hops) > 1:
        raise ConfigError(f"{arguments.checkpoint} is no Jukebox: expected one --hop-fraction, got {len(hops)}")
    if arguments.clap is not None and arguments.text is None:
        raise ConfigError("--clap is for --text: give both, or leave it out")
    config = GenerationConfig(
        seconds=arguments.seconds,
        prime=arguments.prime,
        tokens=arguments.tokens,
        embedding=arguments.embedding,
        text=arguments.text,
        clap=arguments.clap or GenerationConfig.clap,
        hop_fraction=hops[0],
        sampling=_sampling(arguments, 1.0),
        seed=arguments.seed,
    )
    run = generate_codec if family == "codec" else generate_sonido
    return run(folder, arguments.output, config, _device(arguments))


def _generate_jukebox(folder: Path, arguments: argparse.Namespace) -> Path:
    from sonido_bench.foundation.jukebox.folder import jukebox_parts
    from sonido_bench.foundation.jukebox.generation import JukeboxGeneration
    from sonido_bench.foundation.jukebox.generation import generate as sample
    from sonido_bench.foundation.jukebox.precision import torch_dtype

    _refuse(arguments, _FOLLOWING_OPTIONS, f"{arguments.checkpoint} is a Jukebox, which follows no embedding or text")
    sampling, device = _sampling(arguments, 0.99), _device(arguments)
    config = JukeboxGeneration(  # what is wrong with the options is said before gigabytes are hashed
        seconds=arguments.seconds,
        prime=arguments.prime,
        tokens=arguments.tokens,
        finest=arguments.finest or 0,
        song_seconds=arguments.song_seconds,
        artist=arguments.artist or "",
        genre=arguments.genre or "",
        lyrics=_read_text(arguments.lyrics),
        sampling=sampling,
        seed=arguments.seed,
    )
    dtype = torch_dtype(arguments.dtype or "float32")
    parts = jukebox_parts(folder, arguments.preset, dtype, arguments.cache)
    hops = arguments.hop_fraction or [*[0.5] * (len(parts.priors) - 1), 0.125]
    config = replace(config, hop_fractions=tuple(hops), ids=_label_ids(folder, parts, arguments))
    return sample(parts, arguments.output, config, device)


def _label_ids(folder: Path, parts: "JukeboxParts", arguments: argparse.Namespace) -> "tuple[LabelIds, ...]":
    """Read the ids of artists and genres, if any are named, and hold the names to them."""
    if not (arguments.artist or arguments.genre):
        if arguments.ids is not None:
            raise ConfigError("--ids is for --artist and --genre: give one, or leave it out")
        return ()
    from sonido_bench.foundation.jukebox.labels import LabelIds

    labels = [source.config.labels for source in parts.priors if source.config.labels is not None]
    if not any(one.artists > 1 or one.genres > 1 for one in labels):
        raise ConfigError(f"{arguments.checkpoint} knows no artists or genres: leave --artist and --genre out")
    found = tuple(
        LabelIds.find(arguments.ids or folder, version) for version in sorted({one.version for one in labels})
    )
    if arguments.artist and not any(ids.artist_id(arguments.artist) for ids in found):
        raise ConfigError(f"unknown artist {arguments.artist!r}: no id file of {arguments.ids or folder} has it")
    if arguments.genre and not any(any(ids.genre_ids(arguments.genre)) for ids in found):
        raise ConfigError(f"unknown genre {arguments.genre!r}: no id file of {arguments.ids or folder} has it")
    return found


def _sampling(arguments: argparse.Namespace, temperature: float) -> "SamplingConfig":
    """Return how codes are drawn, by default at a family's own temperature."""
    from sonido_bench.foundation.transformer.sampling import SamplingConfig

    given, guidance = arguments.temperature, arguments.guidance
    heat = temperature if given is None else given
    return SamplingConfig(heat, arguments.top_k, arguments.top_p, 1.0 if guidance is None else guidance)


def _refuse(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuse options that another family of models has."""
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) is not None]:
        raise ConfigError(f"{why}: leave out {', '.join(given)}")


def _read_text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected a text file, found: {error}") from error


def _device(arguments: argparse.Namespace) -> str:
    """Return the device that was asked for, if it is there."""
    import torch

    device: str = arguments.device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no device {device!r} here: {str(error).splitlines()[0]}") from error
    return device
