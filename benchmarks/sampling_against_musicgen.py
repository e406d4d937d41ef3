"""The codec's language model here against MusicGen's decoder of transformers, on the same random weights, in float32.

CPU seconds of so many frames of four codes in the delay pattern, from nothing. Theirs is called with its key-value
cache, a step at a time, in a plain loop: its own ``generate`` fails without a text encoder (transformers 4.57), and
would cost more. The two take turns, and the least of each one's times counts. A batch of 2 is what one item costs with
guidance. Before one item is sampled, matrices are laid out for steps, as ``generate`` does. The likeliest codes of
both are compared first.

python -m benchmarks.sampling_against_musicgen [--quick]
"""

import argparse
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.jukebox_against_hugging_face import best
from sonido_bench.foundation.codec.language_model import PRESETS, LanguageModel, LanguageModelConfig
from sonido_bench.foundation.codec.sampling import sample
from sonido_bench.foundation.transformer.few_rows import lay_out
from sonido_bench.foundation.transformer.sampling import SamplingConfig, sample_logits
from tests.foundation.codec.musicgen_decoder import musicgen_decoder

SIZES = {
    "codec-tiny": replace(PRESETS["tiny"], codebook_size=256, width=128, depth=4, heads=4),
    "MusicGen small": PRESETS["small"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smaller model alone")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print("| model | batch | frames | CPU s: ours | theirs | theirs / ours |\n" + "| --- " * 6 + "|")
    for name, config in list(SIZES.items())[: 1 if quick else None]:
        compare(name, config, [(1, 100), (2, 100), (8, 100)] if name == "codec-tiny" else [(1, 24), (2, 24), (8, 12)])


def compare(name: str, config: LanguageModelConfig, cases: list[tuple[int, int]]) -> None:
    """Print a row for each batch size and number of frames."""
    torch.manual_seed(0)
    ours = LanguageModel(config).eval()
    theirs, laid_out = musicgen_decoder(ours), deepcopy(ours)
    lay_out(laid_out)
    greedy = SamplingConfig(temperature=0.0)
    for model in (ours, laid_out):
        assert torch.equal(our_codes(model, 1, 8, greedy), their_codes(theirs, 1, 8, greedy)), "the likeliest differ"
    drawn = SamplingConfig(top_k=250)
    for batch, frames in cases:
        model = laid_out if batch == 1 else ours
        mine, other = best(
            [partial(our_codes, model, batch, frames, drawn), partial(their_codes, theirs, batch, frames, drawn)]
        )
        print(f"| {name} | {batch} | {frames} | {mine:.2f} | {other:.2f} | {other / mine:.1f} |", flush=True)


def our_codes(model: LanguageModel, batch: int, frames: int, sampling: SamplingConfig) -> Tensor:
    start = torch.zeros(batch, 0, model.config.codebooks, dtype=torch.long)
    return sample(model, frames, start, sampling=sampling).codes


@torch.no_grad()
def their_codes(theirs: Any, batch: int, frames: int, sampling: SamplingConfig) -> Tensor:
    """Sample with a plain loop: codebook ``k`` is ``k`` steps behind."""
    books, special = theirs.num_codebooks, theirs.config.pad_token_id
    steps = frames + books - 1
    tokens = torch.full((batch, books, 1 + steps), special)
    cache = None
    for step in range(steps):
        output = theirs(tokens[..., step].reshape(-1, 1), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[:, -1].view(batch, 1, books, -1)
        drawn = sample_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p)[:, 0]
        for book in range(max(0, step - frames + 1), min(books, step + 1)):
            tokens[:, book, step + 1] = drawn[:, book]
    return torch.stack([tokens[:, book, 1 + book : 1 + book + frames] for book in range(books)], dim=2)


if __name__ == "__main__":
    main()
