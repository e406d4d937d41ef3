"""What the factorised attention patterns save, and what a forward pass over a full context needs.

Every measurement has a process of its own: median seconds over some runs, and the peak of resident memory above what
was there before. Each pattern is compared with its definition, dense attention under a mask of all pairs. At the end,
the peak memory of a process that runs the transformer of size "small" (width 1024, 24 blocks) once over a full context;
the goal is 4 GiB at most.

Run: OMP_NUM_THREADS=1 python benchmarks/sparse_attention.py [--positions 8192] [--depth 24] [--quick]
(about two minutes on one core; --quick: 2048 positions, 4 blocks). Linux only: memory is read from /proc.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.foundation.sonido.config import PriorConfig
from sonido_bench.foundation.sonido.prior import Prior
from sonido_bench.foundation.transformer.sparse_attention import Pattern, attend

PATTERNS: tuple[Pattern, ...] = ("row", "column", "previous_row")
BLOCK_LENGTH, HEADS, HEAD_DIM = 128, 2, 128
LIMIT_GIB = 4


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def pattern_mask(pattern: Pattern, positions: int) -> Tensor:
    """``(positions, positions)``, true where a pair is allowed; the first row of previous_row sees itself instead."""
    i, j = torch.arange(positions).unsqueeze(1), torch.arange(positions)
    if pattern == "previous_row":
        return (j // BLOCK_LENGTH == i // BLOCK_LENGTH - 1) | ((i < BLOCK_LENGTH) & (i == j))
    same = i // BLOCK_LENGTH == j // BLOCK_LENGTH if pattern == "row" else i % BLOCK_LENGTH == j % BLOCK_LENGTH
    return same & (j <= i)


def attention(pattern: Pattern, masked: bool, positions: int) -> Callable[[], None]:
    """Return a function that runs attention forward and backward."""
    q, k, v = (torch.randn(1, positions, HEADS, HEAD_DIM, requires_grad=True) for _ in range(3))
    mask = pattern_mask(pattern, positions) if masked else None

    def run() -> None:
        if mask is None:
            out = attend(q, k, v, pattern, BLOCK_LENGTH)
        else:
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
            )
        torch.autograd.backward(out.sum())

    return run


def measure_attention(pattern: Pattern, masked: bool, positions: int, runs: int) -> dict[str, float]:
    run = attention(pattern, masked, positions)
    forget_peak()
    before = peak_mib()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    mask_mib = positions**2 / 2**20 if masked else 0.0  # it was there before, but is part of the price
    return {"seconds": statistics.median(seconds), "mib": max(peak_mib() - before, 0.0) + mask_mib}


def measure_forward(positions: int, depth: int) -> dict[str, float]:
    config = PriorConfig(
        level="top", context=positions, width=1024, depth=depth, heads=HEADS, attention_width=HEADS * HEAD_DIM,
        mlp_width=1024, block_length=BLOCK_LENGTH,
    )  # fmt: skip
    prior = Prior(config, codebooks=1, codebook_size=2048).eval()
    start = time.perf_counter()
    with torch.inference_mode():
        prior.hidden(torch.randint(2048, (1, positions, 1)), [depth])
    return {"seconds": time.perf_counter() - start, "mib": peak_mib()}


def in_own_process(*arguments: str | int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def report(positions: int, depth: int, runs: int) -> None:
    print(f"{positions} positions, rows of {BLOCK_LENGTH}, {HEADS} heads of {HEAD_DIM}; forward and backward")
    print(f"{'pattern':14}{'seconds':>9}{'masked':>9}{'ratio':>8}{'MiB':>9}{'masked':>9}{'ratio':>8}")
    for pattern in PATTERNS:
        ours = in_own_process("attention", pattern, 0, positions, runs)
        theirs = in_own_process("attention", pattern, 1, positions, runs)
        row = f"{pattern:14}"
        for name, digits in (("seconds", 3), ("mib", 0)):
            ratio = theirs[name] / max(ours[name], 1e-9)
            row += f"{ours[name]:9.{digits}f}{theirs[name]:9.{digits}f}{ratio:8.1f}"
        print(row)
    forward = in_own_process("forward", positions, depth)
    verdict = "within" if forward["mib"] <= LIMIT_GIB * 1024 else "ABOVE"
    print(
        f"one forward, width 1024, {depth} blocks: {forward['seconds']:.1f} s, {forward['mib'] / 1024:.2f} GiB "
        f"({verdict} {LIMIT_GIB} GiB, all of the process)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure and options.measure[0] == "attention":
        pattern, masked, positions, runs = options.measure[1:]
        print(json.dumps(measure_attention(pattern, masked == "1", int(positions), int(runs))))
    elif options.measure:
        print(json.dumps(measure_forward(*map(int, options.measure[1:]))))
    elif options.quick:
        report(2048, 4, options.runs)
    else:
        report(options.positions, options.depth, options.runs)


if __name__ == "__main__":
    main()
