"""The tables and the figure of benchmarks.codec_independence, from the JSON files of its parts."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

__all__ = ["read_parts", "report"]

Row = dict[str, Any]
COLOURS = {"straight_through": "C0", "post": "C1", "pre": "C2"}
TOKENIZERS, PATTERNS = ("none", "parallel", "delay"), ("parallel", "delay", "flatten")


def read_parts(folder: Path, *names: object) -> list[Row]:
    """Read the parts whose names begin so, in the order of their names."""
    pattern = "-".join(map(str, names)) + "*.json"
    return [cast(Row, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob(pattern))]


def report(folder: Path, seeds: int, front: Path | None, max_cost: float) -> None:
    """Print the sweeps, the tokenizers and the language models: means over seeds, and the standard deviation.

    Args:
        folder: Of the parts; what is not there is left out.
        seeds: To take.
        front: Where the figure goes; ``None``: nowhere.
        max_cost: Of the mel loss as a factor, for the figure.
    """
    free, points = read_parts(folder, "sweep", "none"), []
    print_header("form", "stream", "weight", "total correlation", "mel", "mel cost", "least perplexity")
    for form in ("parallel", "delay"):
        rows = [*free, *sorted(read_parts(folder, "sweep", form), key=lambda row: (row["stream"], row["weight"]))]
        points += [(form, row) for row in rows]
        for row in rows:
            cost, own = row["mel"] / rows[0]["mel"] - 1, row[form]
            cells = (form, row["stream"], f"{row['weight']:g}", f"{own['total_correlation']:.3f}", f"{row['mel']:.4f}")
            print(f"| {' | '.join(cells)} | {cost:+.1%} | {min(own['perplexities']):.1f} |")
    if free and front is not None:
        draw_front(points, front, max_cost)
    print_tokenizers(folder, seeds)
    print_models(folder, seeds)


def print_header(*columns: str) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")


def of_seeds(folder: Path, seeds: int, kind: str, *names: str) -> list[Row]:
    return [row for seed in range(seeds) for row in read_parts(folder, kind, seed, *names)]


def print_tokenizers(folder: Path, seeds: int) -> None:
    figures: dict[str, Callable[[Row], float]] = {
        "TC": lambda row: row["parallel"]["total_correlation"],
        "TC, delayed": lambda row: row["delay"]["total_correlation"],
        "pairwise": lambda row: row["parallel"]["pairwise"],
        "mel": lambda row: row["mel"],
        "SI-SNR": lambda row: row["si_snr"],
        "least perplexity": lambda row: min(row["parallel"]["perplexities"]),
        "gap": lambda row: row["gap"]["order and dependence"]["wasserstein"],
        "gap of dependence": lambda row: row["gap"]["dependence"]["wasserstein"],
    }
    print_header("loss", *figures)
    for tokenizer in TOKENIZERS:
        found = of_seeds(folder, seeds, "tokenizer", tokenizer)
        print(f"| {tokenizer} | {' | '.join(mean([figure(row) for row in found]) for figure in figures.values())} |")


def print_models(folder: Path, seeds: int) -> None:
    """Print bits per frame, their excess over the flattened model of the tokenizer and seed, and the price."""
    print_header("loss", "pattern", "bits per frame", "over flatten", "price", "Frechet", "steps", "s per s")
    for tokenizer in TOKENIZERS:
        flat = of_seeds(folder, seeds, "model", tokenizer, "flatten")
        for pattern in PATTERNS:
            found = of_seeds(folder, seeds, "model", tokenizer, pattern)
            over = [row["bits_per_frame"] - other["bits_per_frame"] for row, other in zip(found, flat, strict=False)]
            names = ("price", "frechet", "steps", "seconds_per_second")
            cells = [mean([row["bits_per_frame"] for row in found]), mean(over)]
            cells += [mean([row[name] for row in found]) for name in names]
            print(f"| {tokenizer} | {pattern} | {' | '.join(cells)} |")


def mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{deviation}"


def draw_front(points: list[tuple[str, Row]], path: Path, max_cost: float) -> None:
    """Draw the total correlation against the cost, a panel for each form and a line for each stream."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained", sharey=True)
    for axes, form in zip(panels, ("parallel", "delay"), strict=True):
        rows = [row for name, row in points if name == form]
        for stream, colour in COLOURS.items():
            own = [row for row in rows if row["stream"] in ("none", stream)]
            if len(own) == 1:
                continue
            cost = [100 * (row["mel"] / rows[0]["mel"] - 1) for row in own]
            heights = [row[form]["total_correlation"] for row in own]
            axes.plot(cost, heights, "o-", color=colour, label=stream)
            for row, x, y in zip(own, cost, heights, strict=True):
                axes.annotate(f"{row['weight']:g}", (x, y), fontsize=7)
        axes.axvline(100 * (max_cost - 1), color="grey", linestyle=":")
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xticks([0, 1, 3, 10, 30], ["0", "1", "3", "10", "30"])
        axes.set(title=f"loss on {form} codes", xlabel="mel loss on validation music, against no loss (%)")
        axes.legend(fontsize=8)
    panels[0].set_ylabel("total correlation (bits per frame)")
    figure.savefig(path, dpi=80)
