import time
from pathlib import Path

import pytest

from sonido_bench.foundation.sonido.config import load_config, parse_config
from sonido_bench.foundation.sonido.plan import memory_plan

FOLDER = Path(__file__).parents[3] / "configs" / "foundation"


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_presets_build_and_round_trip(name):
    path = FOLDER / f"sonido-{name}.yaml"
    config = load_config(path)
    assert config.name == f"sonido-{name}"
    assert len(path.read_text().splitlines()) < 40
    assert parse_config(config.as_dict()) == config


def test_base_is_as_large_as_jukebox_and_is_planned_without_its_weights():
    start = time.process_time()
    plan = {part.name: part for part in memory_plan(load_config(FOLDER / "sonido-base.yaml"), devices=64)}
    assert time.process_time() - start < 5
    assert plan["prior top"].parameters == pytest.approx(5.0e9, rel=0.02)
    assert plan["prior mid"].parameters == pytest.approx(0.9e9, rel=0.05)
    assert all(part.total < 40 for part in plan.values())


def test_plan_adds_up():
    config = load_config(FOLDER / "sonido-small.yaml")
    alone, shared = memory_plan(config), memory_plan(config, devices=4)
    for one, quarter in zip(alone, shared, strict=True):
        assert one.weights == one.parameters * 4 / 2**30 == one.gradients == one.optimizer / 2
        assert quarter.weights == pytest.approx(one.weights / 4)
        assert quarter.activations == one.activations
        assert one.total == pytest.approx(4 * one.weights + one.activations)
    assert alone[1].as_row()["parameters"] == f"{alone[1].parameters:,}"
