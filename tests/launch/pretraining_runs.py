"""Runs of `sonido-bench pretrain` as the tests of every family make them: whole, in pieces, killed, and compared."""

import csv
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from sonido_bench.launch.phase import load_weights
from sonido_bench.launch.pretraining import pretrain


def run(folder: Path, name: str, config: Path, **options) -> bool:
    """Pre-train in a folder that has the music in ``data``."""
    return pretrain(config, folder / name, **({"workers": 1, "data": folder / "data"} | options))


def pieces(go_on: Callable[..., bool]) -> int:
    """Call a run, a step or a shard at a time, until it is finished; return how often it was not."""
    count = 0
    while not go_on(minutes=0.0):
        count += 1
        assert count < 30
    return count


def kill(go_on: Callable[[], bool], stage: type, step: int) -> None:
    """Call a run in a process that dies, by ``kill -9``, as a stage begins a step."""
    child = multiprocessing.get_context("fork").Process(target=_die, args=(go_on, stage, step))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def _die(go_on: Callable[[], bool], stage: type, step: int) -> None:
    train = stage.training_step

    def die(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(self, batch, batch_idx)

    stage.training_step = die
    go_on()


def rows(phase: Path) -> list[dict[str, str]]:
    """Read the curves of a phase."""
    with (phase / "curves.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same(one: Path, other: Path, phases: Sequence[str]) -> None:
    """Two runs have the same weights and, but for what it cost, the same curves."""
    for phase in phases:
        weights, others = load_weights(one / phase), load_weights(other / phase)
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights), phase
        curves = [[{n: v for n, v in row.items() if "cost" not in n} for row in rows(p / phase)] for p in (one, other)]
        assert curves[0] == curves[1]
