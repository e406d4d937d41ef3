"""Does a loss that makes a codec's codebooks independent help the language model over its codes, and at what cost?

Lemercier et al. (2024) at a small scale, on rendered music that no other benchmark uses. One codec per seed is trained,
then fine-tuned alike without the loss, with the loss on codes of one frame ("parallel"), and with the loss on codes
shifted as the delay pattern does ("delay"). Stream and weight of the loss come from a sweep on validation music of the
first seed: the least total correlation of those whose mel loss is at most 3 % above that without the loss, and whose
worst codebook keeps 80 % of its perplexity. On each tokenizer language models of one size learn with the patterns
parallel, delay and flatten. The tables are of test music.

Every part leaves a JSON file in the folder of results: after an interruption the same command goes on.

Run: python -m benchmarks.codec_independence [--quick] [--seeds 3] [--workers 1] [--results DIR] [--data DIR] [--report]
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sonido_bench.audio import read_audio, resample, to_mono
from sonido_bench.datamodules.rendering.dataset import RenderedConfig, prepare
from sonido_bench.files import atomic_path, write_json
from sonido_bench.foundation.codec import evaluation
from sonido_bench.foundation.codec.config import CodecConfig, QuantizerConfig, SEANetConfig
from sonido_bench.foundation.codec.independence import IndependenceLoss
from sonido_bench.foundation.codec.language_model import LanguageModel, LanguageModelConfig
from sonido_bench.foundation.codec.language_model_training import LanguageModelPhase, LanguageModelTraining
from sonido_bench.foundation.codec.model import Codec
from sonido_bench.foundation.codec.patterns import PatternName
from sonido_bench.foundation.codec.streams import StreamVariant
from sonido_bench.foundation.codec.training import CodecStage, CodecTraining
from sonido_bench.foundation.logmel import LogMel
from sonido_bench.foundation.transformer.sampling import SamplingConfig
from sonido_bench.metrics.independence import InformationMethod

CODEC = CodecConfig(
    "small",
    8000,
    50,
    SEANetConfig(ratios=(4, 2, 4, 5), dimension=32, filters=8, lstm_layers=1),
    QuantizerConfig(codebooks=4, codebook_size=64, kmeans_iterations=20, decay=0.9),
)
DELAYS = tuple(range(CODEC.quantizer.codebooks))
DATA_SEED = 2001
STREAMS: tuple[StreamVariant, ...] = ("straight_through", "post", "pre")
TOKENIZERS = {"none": None, "parallel": (0,) * len(DELAYS), "delay": DELAYS}
PATTERNS: tuple[PatternName, ...] = ("parallel", "delay", "flatten")
FRAMES = 100  # of a language model's items, and of the clips that are compared: 2 s
MAX_COST, MIN_PERPLEXITY = 1.03, 0.8  # the goal is 1.05 on test music of all seeds; some room is left
FRONT = Path(__file__).parents[1] / "docs" / "codec_independence.png"
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    results: Path
    tracks: tuple[int, int, int] = (160, 60, 80)  # training, validation, test
    seconds: float = 12.0
    base_steps: int = 400
    tune_steps: int = 150
    model_steps: int = 300
    sampled: int = 160
    weights: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0)
    streams: tuple[StreamVariant, ...] = STREAMS
    method: InformationMethod = "held_out"


class Batches(Dataset[Any]):
    """Batch ``n`` is a function of the seed and ``n``: windows ``(rows, length, ...)`` of items ``(items, time)``."""

    def __init__(self, items: Tensor, rows: int, length: int, steps: int, seed: int, name: str | None = None) -> None:
        self.items, self.rows, self.length, self.steps, self.seed, self.name = items, rows, length, steps, seed, name

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        rows = torch.randint(len(self.items), (self.rows,), generator=generator).tolist()
        starts = torch.randint(self.items.shape[1] - self.length + 1, (self.rows,), generator=generator).tolist()
        batch = torch.stack([self.items[row, at : at + self.length] for row, at in zip(rows, starts, strict=True)])
        return batch if self.name is None else {self.name: batch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two steps of everything: to see that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--results", type=Path, default=Path("results/codec_independence"))
    parser.add_argument("--data", type=Path, help="folder of the rendered music; default: a temporary one")
    parser.add_argument("--report", action="store_true", help="print the tables of what is there, and draw the front")
    arguments = parser.parse_args()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(Path(folder), (6, 4, 6), 4.0, 2, 2, 2, 4, (10.0,), ("straight_through",), "plug_in")
            run(plan, Path(folder) / "data", 1, 1)
            report(plan, 1, None)
        return
    plan = Plan(arguments.results)
    if not arguments.report:
        with tempfile.TemporaryDirectory() as folder:
            run(plan, arguments.data or Path(folder), arguments.seeds, arguments.workers)
    report(plan, arguments.seeds, FRONT)


def run(plan: Plan, data: Path, seeds: int, workers: int) -> None:
    """Do what has not been done: codecs, the sweep, tokenizers, language models, each after the one before."""
    plan.results.mkdir(parents=True, exist_ok=True)
    render(plan, data)
    spread(workers, base, [(plan, seed) for seed in range(seeds)])
    points = [("none", 0.0), *((stream, weight) for stream in plan.streams for weight in plan.weights)]
    spread(workers, sweep_point, [(plan, stream, weight) for stream, weight in points])
    arms = [(plan, seed, tokenizer) for seed in range(seeds) for tokenizer in TOKENIZERS]
    spread(workers, tokenizer_scores, arms)
    spread(workers, model_scores, [(*arm, pattern) for arm in arms for pattern in PATTERNS])


def spread(workers: int, part: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
    """Call a part with each of many arguments, in so many processes."""
    if workers == 1:
        for call in calls:
            quiet()
            part(*call)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=quiet) as pool:
        for future in [pool.submit(part, *call) for call in calls]:
            future.result()


def quiet() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def render(plan: Plan, data: Path) -> None:
    """Write the music of all tracks at the codec's rate, ``(tracks, samples)``."""
    path = plan.results / "audio.safetensors"
    if path.is_file():
        return
    manifest = prepare(
        data, RenderedConfig(DATA_SEED, plan.seconds, train=0, validation=0, test=0, pretrain=sum(plan.tracks))
    )
    items = []
    for track in manifest.split("pretrain"):
        audio, rate = read_audio(data / track.audio)
        items.append(resample(to_mono(audio), rate, CODEC.sample_rate)[: round(plan.seconds * CODEC.sample_rate)])
    with atomic_path(path) as temporary:
        save_file({"audio": torch.stack(items)}, temporary)


def music(plan: Plan) -> tuple[Tensor, ...]:
    """Return the music of training, validation and test."""
    return torch.split(load_file(plan.results / "audio.safetensors")["audio"], list(plan.tracks))


def part_file(plan: Plan, *names: object) -> Path:
    return plan.results / f"{'-'.join(map(str, names))}.json"


def read(plan: Plan, *names: object) -> Row:
    return cast(Row, json.loads(part_file(plan, *names).read_text(encoding="utf-8")))


def keep(plan: Plan, start: float, row: Row, *names: object) -> None:
    """Write what was found, with its CPU seconds, and print it."""
    row = {"part": "-".join(map(str, names)), "cpu_seconds": round(time.process_time() - start, 1)} | row
    write_json(part_file(plan, *names), row, indent=1)
    print(json.dumps(row), flush=True)


def base(plan: Plan, seed: int) -> None:
    """Train the codec that all arms of a seed go on from."""
    if part_file(plan, "base", seed).is_file():
        return
    start = time.process_time()
    torch.manual_seed(seed)
    train, validation, _ = music(plan)
    codec = Codec(CODEC)
    config = CodecTraining(plan.base_steps, 8, 2e-3, 20, validate_every=plan.base_steps)
    fit(CodecStage(codec, config, seed), Batches(train, 8, CODEC.sample_rate, plan.base_steps, seed))
    save_file(codec.state_dict(), plan.results / f"base-{seed}.safetensors")
    keep(plan, start, evaluation.reconstruction(codec.eval(), validation)._asdict(), "base", seed)


def tuned(plan: Plan, seed: int, stream: StreamVariant, weight: float, delays: tuple[int, ...] | None) -> Codec:
    """Return a seed's codec, trained further with the loss, or without where the weight is 0."""
    codec = Codec(CODEC)
    codec.load_state_dict(load_file(plan.results / f"base-{seed}.safetensors"))
    config = CodecTraining(plan.tune_steps, 16, 1e-3, 10, validate_every=plan.tune_steps)
    loss = IndependenceLoss(delays=delays, max_samples=512) if weight else None
    stage = CodecStage(
        codec, config, seed, independence=loss, independence_weight=weight, independence_ramp=20, stream=stream
    )
    fit(stage, Batches(music(plan)[0], 16, 32 * CODEC.hop_length, plan.tune_steps, 1000 + seed))
    return codec.eval()


def fit(module: pl.LightningModule, batches: Batches) -> None:
    trainer = pl.Trainer(
        max_steps=len(batches),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))


def sweep_point(plan: Plan, stream: str, weight: float) -> None:
    """Fine-tune the first seed's codec, and judge it by validation music."""
    if part_file(plan, "sweep", stream, weight).is_file():
        return
    start = time.process_time()
    variant = cast(StreamVariant, "post" if stream == "none" else stream)
    codec, validation = tuned(plan, 0, variant, weight, None), music(plan)[1]
    codes = evaluation.encode(codec, validation)
    found = evaluation.dependence(codes, codec.codebook_size, None, plan.method, "plug_in")
    row = {"stream": stream, "weight": weight} | found._asdict()
    keep(plan, start, row | evaluation.reconstruction(codec, validation)._asdict(), "sweep", stream, weight)


def chosen(plan: Plan) -> tuple[StreamVariant, float]:
    """Return stream and weight by the rule that stands at the head; of points that all cost too much, the cheapest."""
    points = [read(plan, "sweep", stream, weight) for stream in plan.streams for weight in plan.weights]
    free = read(plan, "sweep", "none", 0.0)
    least = MIN_PERPLEXITY * min(free["perplexities"])
    allowed = [row for row in points if row["mel"] <= MAX_COST * free["mel"] and min(row["perplexities"]) >= least]
    if allowed:
        best = min(allowed, key=lambda row: float(row["total_correlation"]))
    else:
        best = min(points, key=lambda row: float(row["mel"]))
    return best["stream"], best["weight"]


def tokenizer_scores(plan: Plan, seed: int, tokenizer: str) -> None:
    """Fine-tune a seed's codec for one arm, keep all codes, and judge it by test music."""
    if part_file(plan, "tokenizer", seed, tokenizer).is_file():
        return
    start = time.process_time()
    stream, weight = chosen(plan)
    delays = TOKENIZERS[tokenizer]
    codec = tuned(plan, seed, stream, 0.0 if delays is None else weight, delays)
    train, _, test = music(plan)
    codes = evaluation.encode(codec, test)
    save_file(codec.state_dict(), plan.results / f"codec-{seed}-{tokenizer}.safetensors")
    save_file({"train": evaluation.encode(codec, train), "test": codes}, codes_file(plan, seed, tokenizer))
    row: Row = {"stream": stream, "weight": weight} | evaluation.reconstruction(codec, test)._asdict()
    reference, features = clips(test), extractor()
    pieces = codes[:, : codes.shape[1] // FRAMES * FRAMES].reshape(-1, FRAMES, codec.codebooks)
    for name, shifts in (("parallel", None), ("delay", DELAYS)):
        found = evaluation.dependence(codes, codec.codebook_size, shifts, plan.method, "plug_in", seed)
        gap = evaluation.marginals_gap(codec, pieces, reference, features, shifts, seed)
        parts = {"product": gap.product._asdict(), "plain": gap.plain._asdict(), "gap": gap.gap._asdict()}
        row[name] = found._asdict() | {"marginals": parts}
    keep(plan, start, row, "tokenizer", seed, tokenizer)


def codes_file(plan: Plan, seed: int, tokenizer: str) -> Path:
    return plan.results / f"codes-{seed}-{tokenizer}.safetensors"


def extractor() -> LogMel:
    """Return what music is compared by: log-mel frames, a clip's mean; all bands lie within the codec's."""
    return LogMel(CODEC.sample_rate, n_fft=1024, hop_length=256, num_mels=64)


def clips(audio: Tensor) -> Tensor:
    """Cut ``(items, samples)`` into clips as long as a language model's items."""
    samples = FRAMES * CODEC.hop_length
    return audio[:, : audio.shape[1] // samples * samples].reshape(-1, samples)


def model_scores(plan: Plan, seed: int, tokenizer: str, pattern: PatternName) -> None:
    """Train a language model on a tokenizer's codes, and judge it by test codes and by the music that it draws."""
    if part_file(plan, "model", seed, tokenizer, pattern).is_file():
        return
    start = time.process_time()
    codes = load_file(codes_file(plan, seed, tokenizer))
    codec = Codec(CODEC).eval()
    codec.load_state_dict(load_file(plan.results / f"codec-{seed}-{tokenizer}.safetensors"))
    torch.manual_seed(seed)
    model = LanguageModel(
        LanguageModelConfig(codec.codebooks, codec.codebook_size, pattern, width=64, depth=2, heads=2, context=FRAMES)
    )
    config = LanguageModelTraining(plan.model_steps, 16, 3e-3, 20, validate_every=plan.model_steps)
    phase = LanguageModelPhase(model, config, seed)
    fit(phase, Batches(codes["train"], 16, FRAMES, plan.model_steps, 2000 + seed, "codes"))
    row: Row = {"bits_per_frame": evaluation.bits_per_frame(model.eval(), codes["test"], FRAMES)}
    drawn = evaluation.sampled_music(model, codec, plan.sampled, FRAMES, SamplingConfig(), seed)
    sets = (clips(music(plan)[2]), drawn.audio)
    points = [evaluation.embeddings(extractor(), audio, CODEC.sample_rate) for audio in sets]
    row |= evaluation.distances(points[0], points[1])._asdict()
    row |= {"steps": drawn.steps, "seconds_per_second": drawn.seconds_per_second}
    keep(plan, start, row, "model", seed, tokenizer, pattern)


def report(plan: Plan, seeds: int, front: Path | None) -> None:
    """Print the sweep, the tokenizers and the language models: means over seeds, and the standard deviation."""
    print("\n| stream | weight | total correlation | mel | mel cost | least perplexity |\n|" + " --- |" * 6)
    points = [("none", 0.0), *((stream, weight) for stream in plan.streams for weight in plan.weights)]
    rows = [read(plan, "sweep", *point) for point in points if part_file(plan, "sweep", *point).is_file()]
    for row in rows:
        cost, least = row["mel"] / rows[0]["mel"] - 1, min(row["perplexities"])
        cells = (row["stream"], f"{row['weight']:g}", f"{row['total_correlation']:.3f}", f"{row['mel']:.4f}")
        print(f"| {' | '.join(cells)} | {cost:+.1%} | {least:.1f} |")
    if rows and front is not None:
        draw_front(rows, front)
    print_tokenizers(plan, seeds)
    print_models(plan, seeds)


def print_tokenizers(plan: Plan, seeds: int) -> None:
    columns = ("TC", "TC, delayed", "pairwise", "mel", "l1", "SI-SNR", "least perplexity", "gap SW", "gap precision")
    print("\n| loss | " + " | ".join(columns) + " |\n|" + " --- |" * (1 + len(columns)))
    for tokenizer in TOKENIZERS:
        found = parts(plan, seeds, "tokenizer", tokenizer)
        figures: list[Callable[[Row], float]] = [
            lambda row: row["parallel"]["total_correlation"],
            lambda row: row["delay"]["total_correlation"],
            lambda row: row["parallel"]["pairwise"],
            lambda row: row["mel"],
            lambda row: row["l1"],
            lambda row: row["si_snr"],
            lambda row: min(row["parallel"]["perplexities"]),
            lambda row: row["parallel"]["marginals"]["gap"]["wasserstein"],
            lambda row: row["parallel"]["marginals"]["gap"]["precision"],
        ]
        print(f"| {tokenizer} | " + " | ".join(mean([figure(row) for row in found]) for figure in figures) + " |")


def print_models(plan: Plan, seeds: int) -> None:
    """Print bits per frame, the price over the flattened model of tokenizer and seed, and the samples' distance."""
    print("\n| loss | pattern | bits per frame | price | Frechet | precision | steps | s per s |\n|" + " --- |" * 8)
    for tokenizer in TOKENIZERS:
        flat = parts(plan, seeds, "model", tokenizer, "flatten")
        for pattern in PATTERNS:
            found = parts(plan, seeds, "model", tokenizer, pattern)
            price = [row["bits_per_frame"] - other["bits_per_frame"] for row, other in zip(found, flat, strict=False)]
            names = ("frechet", "precision", "steps", "seconds_per_second")
            cells = [mean([row["bits_per_frame"] for row in found]), mean(price)]
            cells += [mean([row[name] for row in found]) for name in names]
            print(f"| {tokenizer} | {pattern} | {' | '.join(cells)} |")


def parts(plan: Plan, seeds: int, kind: str, *names: str) -> list[Row]:
    """Return what is there of all seeds."""
    return [read(plan, kind, seed, *names) for seed in range(seeds) if part_file(plan, kind, seed, *names).is_file()]


def mean(values: list[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{deviation}"


def draw_front(rows: list[Row], path: Path) -> None:
    """Draw the total correlation against the cost, a line for each stream."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for stream in dict.fromkeys(row["stream"] for row in rows[1:]):
        own = [row for row in rows if row["stream"] in ("none", stream)]
        cost = [100 * (row["mel"] / rows[0]["mel"] - 1) for row in own]
        axes.plot(cost, [row["total_correlation"] for row in own], "o-", label=stream)
        for row, at in zip(own, cost, strict=True):
            axes.annotate(f"{row['weight']:g}", (at, row["total_correlation"]), fontsize=7)
    axes.axvline(100 * (MAX_COST - 1), color="grey", linestyle=":")
    axes.set(xlabel="mel loss on validation music, against no loss (%)", ylabel="total correlation (bits per frame)")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
