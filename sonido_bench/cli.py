"""The command line: what may be typed. What is done then is in commands.py."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sonido_bench import __version__, commands, model_commands, prediction_commands
from sonido_bench.errors import SonidoError

__all__ = ["build_parser", "main"]

FORMATS = ("table", "markdown", "csv", "json")
LIGHTNING_COMMANDS = {
    "fit": "train one task model; every constructor argument is an option (LightningCLI)",
    "validate": "score one checkpoint on the validation set (LightningCLI)",
    "test": "score one checkpoint on the test set (LightningCLI)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments and arguments[0] in LIGHTNING_COMMANDS:
            from sonido_bench.launch.lightning_cli import run_lightning

            run_lightning(arguments)
            return 0
        parsed = build_parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], None] = parsed.command
        command(parsed)
    except SonidoError as error:
        print(f"sonido-bench: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sonido-bench: interrupted; finished results are kept, the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder without permission
        print(f"sonido-bench: error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands but the LightningCLI ones."""
    parser = argparse.ArgumentParser(
        prog="sonido-bench",
        description="Does a music foundation model make your task better, by how much, and is it real?",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(subparsers.add_parser("run", help="run every experiment that has no result yet, then the leaderboard"))
    _add_leaderboard(subparsers.add_parser("leaderboard", help="table and report of a folder of results"))
    _add_compare(subparsers.add_parser("compare", help="baseline beside boosted for one task"))
    _add_status(subparsers.add_parser("status", help="which experiments of a benchmark have a result"))
    _add_data(subparsers.add_parser("data", help="data sets: list, prepare, verify"))
    _add_listing(
        subparsers.add_parser("models", help="extractors: width, frame rate, parameters, licence"), commands.models
    )
    _add_networks(
        subparsers.add_parser("networks", help="a benchmark's task networks: parameters without and with features")
    )
    _add_extract(subparsers.add_parser("extract", help="features of your own audio"))
    _add_predict(
        subparsers.add_parser("predict", help="a trained task model on your own audio: stems, a mix, tags, notes")
    )
    _add_check_extractor(subparsers.add_parser("check-extractor", help="does an extractor keep the contract?"))
    _add_pretrain(subparsers.add_parser("pretrain", help="train a foundation model; resumes"))
    _add_gate(subparsers.add_parser("gate", help="do a model's codes hold music? Probes on validation clips"))
    _add_reconstruct(subparsers.add_parser("reconstruct", help="audio to codes to audio, level by level"))
    _add_generate(subparsers.add_parser("generate", help="sample music, from nothing or continuing a clip; resumes"))
    for name, description in LIGHTNING_COMMANDS.items():
        subparsers.add_parser(name, help=description)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", help="a YAML file, or the name of a shipped benchmark (quick)")
    _add_folders(parser)
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these, and the baseline")
    parser.add_argument("--fractions", nargs="+", type=float, metavar="F", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="S", help="only these")
    parser.add_argument("--workers", type=int, help="processes, one thread each (default: one per core)")
    parser.add_argument("--wandb", choices=("disabled", "offline", "online"), default="disabled", help="log to W&B")
    parser.set_defaults(command=commands.run)


def _add_pretrain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", help="a YAML file, or the name of a shipped one (sonido-tiny, codec-tiny, jukebox-tiny)"
    )
    parser.add_argument("-o", "--output", type=Path, help="folder of the run (default: results/pretraining/NAME)")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    parser.add_argument("--workers", type=int, help="processes, one thread each (default: one per core)")
    parser.add_argument("--data", type=Path, help="root of the audio (default: the file's)")
    parser.add_argument("--wandb", choices=("disabled", "offline", "online"), default="disabled", help="log to W&B")
    parser.add_argument(
        "--plan", type=int, nargs="?", const=1, metavar="GPUS", help="only print parameters and memory on so many GPUs"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="ENTRY=VALUE", help="change the file: stage_two.top.steps=400"
    )
    parser.set_defaults(command=model_commands.pretrain)


def _add_gate(parser: argparse.ArgumentParser) -> None:
    _add_checkpoint(parser, positional=True)
    parser.add_argument(
        "--data", type=Path, default=Path("data/rendered"), help="root of the rendered data (default: %(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("cache/features"), help="feature cache (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, help="processes that render (default: one per core)")
    parser.add_argument("--card", action="store_true", help="write the figures into the model card")
    _add_listing(parser, model_commands.gate)


def _add_checkpoint(parser: argparse.ArgumentParser, positional: bool = False) -> None:
    about = "a model's folder, of Jukebox also of published weights, or the name of a shipped one"
    if positional:
        parser.add_argument("checkpoint", help=about)
    else:
        parser.add_argument("--checkpoint", default="sonido-tiny", help=f"{about} (default: %(default)s)")


def _add_reconstruct(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", nargs="+", type=Path, help="audio files: wav, flac, ogg, mp3")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for one .wav per file and level (or codebook)"
    )
    _add_checkpoint(parser)
    _add_device(parser)
    parser.set_defaults(command=model_commands.reconstruct)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of generation.wav and tokens")
    _add_checkpoint(parser)
    _add_device(parser)
    parser.add_argument("--seconds", type=float, help="to sample, beyond the clip that is continued")
    parser.add_argument("--prime", type=Path, metavar="AUDIO", help="continue this clip")
    parser.add_argument("--tokens", type=Path, help="a tokens.safetensors whose missing, finer levels are sampled")
    parser.add_argument("--temperature", type=float, help="(default: 1; Jukebox: 0.99)")
    parser.add_argument("--top-k", type=int, default=0, help="draw among so many codes; 0: all")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw among the codes of this probability")
    parser.add_argument(
        "--hop-fraction",
        type=float,
        nargs="+",
        metavar="F",
        help="of the context, new in each window (default: 0.5); Jukebox has one for each level, from level 0 "
        "(default: 0.5 0.5 0.125)",
    )
    parser.add_argument("--seed", type=int, default=0)
    following = parser.add_argument_group("SoniDo, if trained to follow a condition")
    following.add_argument("--embedding", type=Path, help="follow this audio embedding (.npy or .safetensors)")
    following.add_argument("--text", help="follow this text, through CLAP")
    following.add_argument("--clap", help="CLAP model for the text (default: laion/larger_clap_music)")
    following.add_argument("--guidance", type=float, help="classifier-free guidance (default: 1, none)")
    _add_jukebox(parser.add_argument_group("Jukebox"))
    parser.set_defaults(command=model_commands.generate)


def _add_jukebox(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--finest", type=int, metavar="LEVEL", help="stop at this level; 2 is quick and rough, 0 is all")
    group.add_argument("--song-seconds", type=float, help="length of the song that the music is told to be part of")
    group.add_argument("--artist", help="in the manner of; published weights only, as all that follow but --dtype")
    group.add_argument("--genre", help="likewise")
    group.add_argument("--lyrics", type=Path, metavar="FILE", help="text that is sung, of the whole song")
    group.add_argument("--ids", type=Path, metavar="FOLDER", help="of the id files (default: the checkpoint)")
    group.add_argument("--preset", help="5b, 5b_lyrics or 1b_lyrics, where the folder does not tell")
    group.add_argument("--cache", type=Path, metavar="FOLDER", help="keep priors here in a form that is read faster")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the priors (default: float32)")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="to compute on, for example cuda (default: %(default)s)")


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, help="folder of the results (default: results/NAME)")
    parser.add_argument("--data", type=Path, help="root of the data set (default: the benchmark's)")
    parser.add_argument(
        "--cache", type=Path, default=Path("cache/features"), help="feature cache (default: %(default)s)"
    )


def _add_listing(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None]) -> None:
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.set_defaults(command=command)


def _add_leaderboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a benchmark's results, for example results/quick")
    parser.add_argument("--metrics", choices=("primary", "all"), default="primary")
    parser.add_argument("--report", action="store_true", help="write report/index.html too")
    parser.add_argument("--figure", type=Path, help="draw the boosts and their intervals here (.png, .svg or .pdf)")
    _add_listing(parser, commands.leaderboard)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a benchmark's results")
    parser.add_argument("--task", required=True)
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these")
    parser.add_argument("--plot", type=Path, help="write the per-item plot here (.png or .svg)")
    _add_listing(parser, commands.compare)


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", help="a YAML file, or the name of a shipped benchmark")
    parser.add_argument("--results", type=Path, help="folder of the results (default: results/NAME)")
    _add_listing(parser, commands.status)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "prepare", "verify"))
    parser.add_argument("benchmark", nargs="?", default="quick", help="whose data (default: quick)")
    parser.add_argument("--data", type=Path, help="root of the data set (default: the benchmark's)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    _add_listing(parser, commands.data)


def _add_networks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", nargs="?", default="quick", help="a YAML file or a shipped name (default: quick)")
    _add_listing(parser, commands.networks)


def _add_extract(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", nargs="+", type=Path, help="audio files: wav, flac, ogg, mp3")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for one .safetensors per file")
    parser.add_argument(
        "--extractor", default="logmel", help="a name of `sonido-bench models`, a model's folder, or module:Class"
    )
    parser.add_argument(
        "--layers", type=int, nargs="+", metavar="N", help="of a model's folder, blocks whose output is written"
    )
    parser.set_defaults(command=commands.extract)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        type=Path,
        help="a folder of `fit` (results/fit/NAME/version_0), a run of `run` (runs/RUN.json), or a .ckpt",
    )
    parser.add_argument("audio", nargs="+", type=Path, help="audio files; in mixing, folders with a file for each stem")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.set_defaults(command=prediction_commands.predict)


def _add_check_extractor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "extractor", help="a name of `sonido-bench models`, a model's folder, or module:Class of your own"
    )
    parser.set_defaults(command=commands.check_extractor)
