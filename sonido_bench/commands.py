"""What each command does. Imports wait until a command needs them: `--help` and the leaderboard load no torch."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonido_bench.errors import ConfigError, SonidoError

if TYPE_CHECKING:
    from sonido_bench.benchmark.config import BenchmarkConfig

__all__ = ["check_extractor", "compare", "data", "extract", "leaderboard", "models", "networks", "run", "status"]


def run(arguments: argparse.Namespace) -> None:
    """Run what has no result yet, print the leaderboard, write tables and report."""
    from sonido_bench.benchmark.config import Selection, load_benchmark
    from sonido_bench.benchmark.example_audio import save_example_audio
    from sonido_bench.benchmark.workspace import Workspace
    from sonido_bench.launch.local import run_benchmark

    config = load_benchmark(arguments.benchmark)
    config = config.select(Selection(arguments.tasks, arguments.arms, arguments.fractions, arguments.seeds))
    workspace = Workspace(_results(arguments, config), arguments.cache, arguments.data)
    data_sets = run_benchmark(config, workspace, arguments.workers, arguments.wandb)
    save_example_audio(workspace.results, data_sets)
    _publish(workspace.results, config.name, arguments.wandb)


def _results(arguments: argparse.Namespace, config: "BenchmarkConfig") -> Path:
    return arguments.results or Path("results") / config.name


def _publish(folder: Path, name: str, wandb: str) -> None:
    """Print the leaderboard and write it beside the results in every form."""
    from sonido_bench.benchmark.leaderboard import build_leaderboard
    from sonido_bench.benchmark.report import write_report
    from sonido_bench.benchmark.results import load_results
    from sonido_bench.benchmark.tables import leaderboard_csv, leaderboard_json, leaderboard_markdown, print_leaderboard
    from sonido_bench.benchmark.tracking import log_leaderboard
    from sonido_bench.files import write_text

    board = build_leaderboard(load_results(folder))
    print_leaderboard(board)
    for suffix, text in {"csv": leaderboard_csv, "json": leaderboard_json, "md": leaderboard_markdown}.items():
        write_text(folder / f"leaderboard.{suffix}", text(board))
    print(f"report: {write_report(folder)}", file=sys.stderr)
    rows = [row.as_dict() for row in board.rows]
    log_leaderboard(wandb, folder, name, rows, sorted((folder / "examples").glob("*.ogg")))


def leaderboard(arguments: argparse.Namespace) -> None:
    """Print the leaderboard of a folder of results."""
    from sonido_bench.benchmark.leaderboard import build_leaderboard
    from sonido_bench.benchmark.results import load_results
    from sonido_bench.benchmark.tables import print_leaderboard

    board = build_leaderboard(load_results(arguments.folder), metrics=arguments.metrics)
    print_leaderboard(board, arguments.format)
    if arguments.figure:
        from sonido_bench.benchmark.figures import leaderboard_figure

        leaderboard_figure(board.rows, arguments.figure)
        print(f"figure: {arguments.figure}", file=sys.stderr)
    if arguments.report:
        from sonido_bench.benchmark.report import write_report

        print(f"report: {write_report(arguments.folder)}", file=sys.stderr)


def compare(arguments: argparse.Namespace) -> None:
    """Print baseline beside boosted for one task."""
    from sonido_bench.benchmark.compare import compare as compare_task
    from sonido_bench.benchmark.compare import save_item_plot
    from sonido_bench.benchmark.results import load_results
    from sonido_bench.benchmark.tables import print_comparison

    comparison = compare_task(load_results(arguments.folder), arguments.task, arguments.arms)
    print_comparison(comparison, arguments.format)
    if arguments.plot:
        save_item_plot(comparison, arguments.plot)
        print(f"plot: {arguments.plot}", file=sys.stderr)


def status(arguments: argparse.Namespace) -> None:
    """Print how many experiments of each task and arm have a result."""
    from sonido_bench.benchmark.config import load_benchmark
    from sonido_bench.benchmark.instantiate import dataset_names
    from sonido_bench.benchmark.listing import print_listing
    from sonido_bench.benchmark.results import result_path

    config = load_benchmark(arguments.benchmark)
    folder = _results(arguments, config)
    grid = config.experiments(dataset_names(config))
    rows = []
    for task in config.tasks.values():
        for arm in config.arms:
            cells = [cell for cell in grid if (cell.task, cell.arm) == (task.name, arm)]
            done = sum(result_path(folder, cell).exists() for cell in cells)
            rows.append({"task": task.name, "arm": arm, "done": done, "total": len(cells)})
    print_listing(rows, arguments.format)


def data(arguments: argparse.Namespace) -> None:
    """List, prepare or verify a benchmark's data sets."""
    from sonido_bench.benchmark.config import load_benchmark
    from sonido_bench.benchmark.listing import print_listing
    from sonido_bench.benchmark.plan import open_data
    from sonido_bench.benchmark.workspace import Workspace
    from sonido_bench.launch.local import prepare_data

    config = load_benchmark(arguments.benchmark)
    opened = open_data(Workspace(Path(), Path(), arguments.data).place(config)).values()
    folders = {data_set.folder: data_set for data_set in opened}
    if arguments.action == "prepare":
        prepare_data(list(opened), arguments.workers)
        print(*folders, sep="\n")
    elif arguments.action == "verify":
        for folder, data_set in folders.items():
            if problems := data_set.verify():
                raise SonidoError(f"{len(problems)} files of {folder} are at fault; the first: {problems[0]}")
            print(f"all files of {folder} are whole")
    else:
        print_listing([data_set.describe() for data_set in folders.values()], arguments.format)


def models(arguments: argparse.Namespace) -> None:
    """Print the built-in extractors."""
    from sonido_bench.benchmark.listing import print_listing
    from sonido_bench.foundation.catalogue import built_in_names, load_extractor

    rows = []
    for name in built_in_names():
        extractor = load_extractor(name)
        for stream, spec in extractor.spec.streams.items():
            rows.append(
                {
                    "name": name,
                    "stream": stream,
                    "dim": spec.dim,
                    "frame rate (Hz)": round(extractor.spec.frame_rate(stream), 2),
                    "parameters": sum(parameter.numel() for parameter in extractor.parameters()),
                    "code": extractor.card.code_licence,
                    "weights": extractor.card.weights_licence,
                    "what": extractor.card.description,
                }
            )
    print_listing(rows, arguments.format)


def networks(arguments: argparse.Namespace) -> None:
    """Print the task networks of a benchmark: parameters without features and with those of each arm."""
    from sonido_bench.benchmark.config import load_benchmark
    from sonido_bench.benchmark.instantiate import arm_extractor, build_task
    from sonido_bench.benchmark.listing import print_listing
    from sonido_bench.benchmark.runner import count_parameters

    config = load_benchmark(arguments.benchmark)
    rows: list[dict[str, Any]] = []
    for task in config.tasks.values():
        extractors = {arm: arm_extractor(config.arm(arm)) for arm in config.arms}
        trained = {arm: count_parameters(build_task(task, extractors[arm])).trained for arm in config.arms}
        rows.append({"task": task.name, "network": task.network, **trained})
    print_listing(rows, arguments.format)


def extract(arguments: argparse.Namespace) -> None:
    """Write the features of audio files, one safetensors file each."""
    from rich.progress import track

    from sonido_bench.audio import read_audio, resample, to_mono
    from sonido_bench.features.export import export_features
    from sonido_bench.foundation.catalogue import load_extractor

    extractor = load_extractor(arguments.extractor, arguments.layers)
    if len({path.stem for path in arguments.audio}) < len(arguments.audio):
        raise ConfigError("two of the audio files have the same name; extract them into different folders")
    for path in track(arguments.audio, "extracting", disable=not sys.stderr.isatty()):
        audio, rate = read_audio(path)
        mono = resample(to_mono(audio), rate, extractor.spec.sample_rate)
        print(export_features(arguments.output / f"{path.stem}.safetensors", extractor, mono))


def check_extractor(arguments: argparse.Namespace) -> None:
    """Check an extractor against the contract."""
    from sonido_bench.features.check import check_extractor as check
    from sonido_bench.foundation.catalogue import load_extractor

    findings = check(load_extractor(arguments.extractor))
    for finding in findings:
        print(f"{'ok  ' if finding.passed else 'FAIL'} {finding.name}: {finding.detail}")
    if broken := [finding.name for finding in findings if not finding.passed]:
        raise SonidoError(
            f"{arguments.extractor} breaks the contract in {len(broken)} of {len(findings)} checks: {', '.join(broken)}"
        )
