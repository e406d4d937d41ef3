"""What features cost the generative networks: parameters, and the time of a training step.

One line per network: parameters without and with features, and CPU seconds of a step (forward, L1 loss, backward,
Adam) without and with; the fastest of repeats in which both take turns, since other load on the machine only adds.
Features are 512 random channels on the network's frames: the frozen model's own time is not in it. Published sizes,
or small ones with --quick.

Run: OMP_NUM_THREADS=1 python benchmarks/generative_networks.py [--quick] [--seconds 6] [--batch-size 1] [--repeats 10]
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sonido_bench.nn.htdemucs import Branches, HTDemucs
from sonido_bench.nn.umx import UMX

DIMS = {"features": 512}
_WARM_UP = 2
"""Steps before any is timed: memory is mapped for the first time in them."""
Build = Callable[..., nn.Module]
"""Builds a network; takes ``feature_dims``."""
Inputs = Callable[[Any, float, int], tuple[Tensor, Any]]
"""Network, seconds and batch size to the network's input and features for it."""


class Case(NamedTuple):
    """A network, in the size of its paper and in a small one, and what goes into it."""

    full: Build
    tiny: Build
    inputs: Inputs


def features(batch: int, frames: int) -> dict[str, Tensor]:
    return {name: torch.randn(batch, frames, dim) for name, dim in DIMS.items()}


def umx_inputs(network: UMX, seconds: float, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    stft = network.stft(centred=False)
    magnitude = stft(torch.randn(batch, 2, round(seconds * stft.sample_rate))).abs()
    return magnitude, features(batch, magnitude.shape[-1])


def htdemucs_inputs(network: HTDemucs, seconds: float, batch: int) -> tuple[Tensor, Branches[dict[str, Tensor]]]:
    mixture = torch.randn(batch, 2, round(seconds * network.samplerate))
    return mixture, Branches(*(features(batch, frames) for frames in network.frames(mixture.shape[-1])))


NETWORKS: Mapping[str, Case] = {
    "umx": Case(partial(UMX, ("vocals",)), partial(UMX, ("vocals",), width=64), umx_inputs),
    "htdemucs": Case(HTDemucs, partial(HTDemucs, channels=16, t_layers=3, t_heads=4), htdemucs_inputs),
}


def stepper(network: nn.Module, *inputs: Any) -> Callable[[], float]:
    """Returns a function that makes a training step and returns its CPU seconds."""
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)

    def step() -> float:
        start = time.process_time()
        optimiser.zero_grad()
        network(*inputs).abs().mean().backward()
        optimiser.step()
        return time.process_time() - start

    return step


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Costs of a network without and with features."""
    build = case.tiny if options.quick else case.full
    baseline, boosted = build(feature_dims=None), build(feature_dims=DIMS)
    audio, aligned = case.inputs(boosted, options.seconds, options.batch_size)
    steps = [stepper(baseline, audio), stepper(boosted, audio, aligned)]
    times = [[step() for step in steps] for _ in range(_WARM_UP + options.repeats)][_WARM_UP:]
    without, with_features = (min(column) for column in zip(*times, strict=True))
    parameters = [sum(weight.numel() for weight in network.parameters()) for network in (baseline, boosted)]
    return {
        "parameters": parameters[0],
        "parameters_with_features": parameters[1],
        "step_cpu_seconds": round(without, 4),
        "step_cpu_seconds_with_features": round(with_features, 4),
        "ratio": round(with_features / without, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small networks, one second")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the audio")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    if options.quick:
        options.seconds = 1.0
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, case in NETWORKS.items():
        print(json.dumps({"network": name, "feature_dims": DIMS, **measure(case, options)}), flush=True)


if __name__ == "__main__":
    main()
