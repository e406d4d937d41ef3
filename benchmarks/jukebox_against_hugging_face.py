"""Jukebox here against Hugging Face's (transformers 4.57, deprecated there), on the same random weights.

Both in float32 and in bfloat16: of ours, the layers of the blocks are (``precision.py``), of theirs, all weights.
Sampling: CPU seconds of so many codes, from nothing and behind a prompt of half the context, each read in chunks of 32
by theirs, as their code does by default, and at once by ours. Their progress bar is taken off, which prints every code.
The four take turns, and the least of each one's times counts. Ours are laid out for steps, as ``generate`` does.
Features: audio in, the mean over time of the middle layer out, in processes of their own that read one file of weights;
theirs is stopped behind that layer, too, and only the prior and the VQ-VAE are built. Memory is the peak resident size
less what the process had when all was imported; the whole peak is printed beside it. Results are compared first.

python -m benchmarks.jukebox_against_hugging_face [--quick]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sonido_bench.foundation.jukebox.extractor import JukeboxFeatures
from sonido_bench.foundation.jukebox.keys import first_blocks, from_theirs, prior_weights, to_theirs, vqvae_weights
from sonido_bench.foundation.jukebox.labels import SongLabels, label_vector
from sonido_bench.foundation.jukebox.precision import DType, in_precision, lowered, torch_dtype
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.jukebox.prior_config import LabelConfig, PriorConfig
from sonido_bench.foundation.jukebox.vqvae import PUBLISHED, VQVAE
from sonido_bench.foundation.transformer.few_rows import lay_out
from sonido_bench.foundation.transformer.sampling import SamplingConfig

TINY = PriorConfig(
    name="tiny", hop_length=128, context=256, width=64, depth=6, heads=2, blocks=16, merged_decoder=True,
    labels=LabelConfig(timing_bins=16, min_seconds=10.0),
)  # fmt: skip
MEDIUM = replace(TINY, name="medium", context=8192, width=512, depth=24, blocks=128)
LAYOUT = "hugging_face"
GOAL = 2.0
DTYPES: tuple[DType, ...] = ("float32", "bfloat16")
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer codes, and a medium context of 2048 codes")
    parser.add_argument("--measure", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=DTYPES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    medium = replace(MEDIUM, context=2048, blocks=32) if arguments.quick else MEDIUM
    if arguments.measure:
        print(json.dumps(measured_features(arguments.folder, medium, arguments.measure, arguments.dtype)))
        return
    print("| sampling | batch | prompt | codes | CPU s: ours | ours bf16 | theirs | theirs bf16 ", end="")
    print("| theirs / ours | theirs / ours bf16 | both bf16 |\n" + "| --- " * 11 + "|")
    compare_sampling(TINY, [(1, 0, 256), (1, 128, 128)])
    quick, half = arguments.quick, medium.context // 2
    steps = 32 if quick else 256
    compare_sampling(medium, [(1, 0, steps), (1, half, steps)] + ([] if quick else [(8, 0, 64)]))
    if not quick:  # theirs tells the time of a whole context, however few codes are drawn
        compare_sampling(replace(medium, name="medium, short", context=256, blocks=16), [(8, 0, 256)])
    compare_features(medium)


def compare_sampling(config: PriorConfig, cases: list[tuple[int, int, int]]) -> None:
    """Print a row for each batch size, length of a prompt and number of codes."""
    torch.manual_seed(0)
    ours = Prior(config).eval()
    theirs = their_prior(config, to_theirs(prior_weights(config, LAYOUT), ours.state_dict()))
    half, their_half = in_precision(deepcopy(ours), torch.bfloat16), deepcopy(theirs).to(torch.bfloat16)
    for model in (ours, half):
        lay_out(model.music)
    drawn = torch.randint(config.codebook_size, (8, config.context // 2))
    vector = label_vector(config, SongLabels.unknown(62.0))[None]
    check_equal(ours, half, theirs, drawn[:1], vector)
    for batch, prompt, codes in cases:
        given, labels = drawn[:batch, :prompt], vector.expand(batch, -1)
        runs = [partial(our_sample, model, given, codes, labels) for model in (ours, half)]
        runs += [partial(their_sample, model, given, codes, labels, temp=0.99) for model in (theirs, their_half)]
        print_row(config.name, str(batch), str(prompt), str(codes), *best(runs))


@torch.no_grad()
def check_equal(ours: Prior, half: Prior, theirs: Any, prompt: Tensor, label: Tensor) -> None:
    """Hold logits and the likeliest continuation to theirs; in lower precision, logits alone, more loosely."""
    codes = prompt.repeat(1, 2)
    bias, start, _ = theirs.get_cond([], label)
    _, logits = theirs.prior(codes, bias, start, get_preds=True)
    error = (ours(codes, label).music - logits).abs().max().item() / logits.abs().max().item()
    rounded = ((half(codes, label).music - logits).norm() / logits.norm()).item()
    short = prompt[:, : prompt.shape[1] // 2]
    likeliest = ours.sample(short, 24, label, None, SamplingConfig(temperature=0.0))
    same = torch.equal(likeliest, their_sample(theirs, short, 24, label, top_k=1))
    assert error < 1e-4, f"logits differ by {error:.1e} of the largest"
    assert rounded < 0.02, f"logits in bfloat16 differ by {rounded:.1e} of their norm"
    assert same, "the likeliest codes differ"


def our_sample(ours: Prior, prompt: Tensor, steps: int, label: Tensor) -> Tensor:
    return ours.sample(prompt, steps, label, None, SamplingConfig(temperature=0.99))


def their_sample(theirs: Any, prompt: Tensor, steps: int, label: Tensor, **options: float) -> Tensor:
    given = {"music_tokens": prompt if prompt.shape[1] else None, "sample_tokens": prompt.shape[1] + steps}
    sampled: Tensor = theirs.sample(len(prompt), metadata=label, chunk_size=32, **given, **options)
    return sampled


def compare_features(config: PriorConfig) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder, config)
        found = {
            (side, dtype): in_process(folder, side, dtype, config) for dtype in DTYPES for side in ("ours", "theirs")
        }
    means = {key: torch.tensor(values.pop("mean")) for key, values in found.items()}
    expected = means["theirs", "float32"]
    errors = {key: ((mean - expected).abs().max() / expected.abs().max()).item() for key, mean in means.items()}
    print(
        f"\nfeatures: layer {config.depth // 2} of {config.depth}, {config.context} codes; from theirs in float32, ",
        end="",
    )
    print(", ".join(f"{' '.join(key)} {error:.0e}" for key, error in errors.items()))
    print("| | ours | ours bf16 | theirs | theirs bf16 | theirs / ours | theirs / ours bf16 | both bf16 |")
    print("| --- " * 8 + "|")
    for row in found["ours", "float32"]:
        values = [found[side, dtype][row] for side in ("ours", "theirs") for dtype in DTYPES]
        print(f"| {row} | {' | '.join(f'{value:.1f}' for value in values)} | {ratios(*values)} |")
    assert errors["ours", "float32"] < 1e-3, "the features differ"
    print(f"goals: {GOAL:g} times faster sampling, {GOAL:g} times less memory above the imports for features")


def in_process(folder: Path, side: str, dtype: DType, config: PriorConfig) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.jukebox_against_hugging_face"]
    command += ["--measure", side, "--dtype", dtype, "--folder", str(folder)]
    command += ["--quick"] if config.context < MEDIUM.context else []
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def measured_features(folder: Path, config: PriorConfig, side: str, dtype: DType) -> dict[str, Any]:
    build = our_features if side == "ours" else their_features
    if side == "theirs":
        their_modules()
    audio = load_file(folder / "audio.safetensors")["audio"]
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak of the imports would hide what follows
    imported, before = mebibytes("VmRSS"), time.process_time()
    extract = build(folder, config, dtype)
    loaded = time.process_time()
    mean = extract(audio)
    seconds = time.process_time() - loaded
    return {
        "MiB above the imports": mebibytes("VmHWM") - imported,
        "MiB of the process": mebibytes("VmHWM"),
        "CPU s to load": loaded - before,
        "CPU s to extract": seconds,
        "mean": mean.tolist(),
    }


def our_features(folder: Path, config: PriorConfig, dtype: DType) -> Callable[[Tensor], Tensor]:
    layer = config.depth // 2
    vqvae = VQVAE(PUBLISHED).eval()
    with torch.device("meta"):
        prior = Prior(replace(config, depth=layer)).eval()
    with safe_open(folder / "prior.safetensors", framework="pt") as file:
        needed = first_blocks(prior_weights(config, LAYOUT), layer)
        state = {}
        for weight in needed:
            for name, tensor in from_theirs([weight], file.get_tensor).items():
                state[name] = lowered(name, tensor, torch_dtype(dtype))
    prior.load_state_dict(state, assign=True)
    with safe_open(folder / "vqvae.safetensors", framework="pt") as file:
        state = from_theirs(vqvae_weights(PUBLISHED, LAYOUT), file.get_tensor)
        vqvae.load_state_dict(state, strict=False)  # files lack the codebooks' statistics
    features = JukeboxFeatures(vqvae, prior, (layer,), pool=config.context, dtype=dtype)
    return lambda audio: features.extract(audio)[f"layer_{layer}"][0, 0]


def their_features(folder: Path, config: PriorConfig, dtype: DType) -> Callable[[Tensor], Tensor]:
    configuration, modeling = their_modules()
    with torch.device("meta"):
        vqvae = modeling.JukeboxVQVAE(configuration.JukeboxVQVAEConfig()).eval()
    vqvae.load_state_dict(load_file(folder / "vqvae.safetensors"), assign=True)
    prior = their_prior(config, load_file(folder / "prior.safetensors")).to(torch_dtype(dtype))
    found: list[Tensor] = []

    class Done(Exception):
        pass

    def stop(_: Any, __: Any, output: Tensor) -> None:
        found.append(output.float().mean(dim=1)[0])
        raise Done

    prior.prior.transformer._attn_mods[config.depth // 2 - 1].register_forward_hook(stop)
    label = label_vector(config, SongLabels.unknown(62.0))[None]

    @torch.no_grad()
    def extract(audio: Tensor) -> Tensor:
        codes = vqvae.encode(audio.unsqueeze(2), start_level=2, end_level=3)[0]
        bias, start, _ = prior.get_cond([], label)
        try:
            prior.prior(codes, bias, start)
        except Done:
            return found.pop()
        raise AssertionError("the middle layer was not run")

    return extract


def their_prior(config: PriorConfig, state: dict[str, Tensor]) -> Any:
    configuration, modeling = their_modules()
    labels = config.labels
    assert labels is not None
    theirs = configuration.JukeboxPriorConfig(
        mask=True, nb_relevant_lyric_tokens=0, level=0, attention_pattern="raw_column_previous_row_attention",
        blocks=config.blocks, num_layers=config.depth, hidden_size=config.width, n_heads=config.heads,
        n_ctx=config.context, music_vocab_size=config.codebook_size, sampling_rate=config.sample_rate,
        merged_decoder=True, is_encoder_decoder=False, metadata_conditioning=True,
        metadata_dims=[labels.genres, labels.artists], max_nb_genres=labels.max_genres,
        timing_dims=labels.timing_bins, min_duration=labels.min_seconds, max_duration=labels.max_seconds,
    )  # fmt: skip
    with torch.device("meta"):
        prior = modeling.JukeboxPrior(theirs).eval()
    prior.load_state_dict(state, assign=True)
    return prior


def their_modules() -> tuple[Any, Any]:
    """Import theirs, less the progress bar that it prints for every code."""
    from transformers.models.deprecated.jukebox import configuration_jukebox, modeling_jukebox

    class Silent(list[int]):
        def __init__(self, steps: Any, **_: Any) -> None:
            super().__init__(steps)

        def set_description(self, *_: Any, **__: Any) -> None: ...

    modeling_jukebox.tqdm = Silent
    return configuration_jukebox, modeling_jukebox


@torch.no_grad()
def write_weights(folder: Path, config: PriorConfig) -> None:
    torch.manual_seed(0)
    prior, vqvae = Prior(config), VQVAE(PUBLISHED)
    for level in range(vqvae.levels):
        vqvae.codes(level).normal_(std=0.02)
    save_file(to_theirs(prior_weights(config, LAYOUT), prior.state_dict()), folder / "prior.safetensors")
    save_file(to_theirs(vqvae_weights(PUBLISHED, LAYOUT), vqvae.state_dict()), folder / "vqvae.safetensors")
    audio = torch.randn(1, config.context * config.hop_length)
    save_file({"audio": audio / audio.abs().max()}, folder / "audio.safetensors")


def best(runs: Sequence[Callable[[], object]]) -> list[float]:
    """CPU seconds of the best of several runs of each; they take turns, as other work on the machine comes and goes."""
    found = [float("inf")] * len(runs)
    for _ in range(REPEATS):
        for index, run in enumerate(runs):
            start = time.process_time()
            run()
            found[index] = min(found[index], time.process_time() - start)
    return found


def mebibytes(field: str) -> float:
    """Of this process: ``VmRSS``, what is resident, or ``VmHWM``, its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


def print_row(name: str, batch: str, prompt: str, codes: str, *seconds: float) -> None:
    found = " | ".join(f"{value:.2f}" for value in seconds)
    print(f"| {name} | {batch} | {prompt} | {codes} | {found} | {ratios(*seconds)} |", flush=True)


def ratios(ours: float, ours_half: float, theirs: float, theirs_half: float) -> str:
    return f"{theirs / ours:.2f} | {theirs / ours_half:.2f} | {theirs_half / ours_half:.2f}"


if __name__ == "__main__":
    main()
