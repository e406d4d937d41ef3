"""The searches in scripts/ must never see the music of a benchmark."""

from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from sonido_bench.benchmark.config import load_benchmark
from sonido_bench.benchmark.instantiate import build_data
from sonido_bench.benchmark.plan import make_plan, open_data
from sonido_bench.benchmark.stage_one_gate import GATE_DATA
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.errors import ConfigError
from sonido_bench.launch.local import prepare_data

ROOT = Path(__file__).parents[1]
RENDERED = "sonido_bench.datamodules.rendered.RenderedDataModule"
STEMS = "sonido_bench.datamodules.rendered_stems.RenderedStemsDataModule"
TASK = """
  {name}:
    network: tagger
    model: {{class_path: sonido_bench.tasks.{task}, init_args: {{{model}}}}}
    data: {data}
    budget: {{batch_size: 2, max_steps: 1, validate_every: 1, patience: 1}}"""
FRONT_END = (
    "front_end: {class_path: sonido_bench.foundation.logmel.LogMel, init_args: {pool: 16}}, width: 8, classes: 12"
)


@pytest.fixture(scope="module")
def search():
    spec = spec_from_file_location("baseline_search", ROOT / "scripts" / "baseline_search.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(tmp_path, **data):
    """A benchmark with a tagging task for each data set, but a separation task where it is of stems."""
    tasks = ""
    for name, own in data.items():
        stems = STEMS in own
        task, model = ("umx.UMXTask", "width: 16, layers: 1") if stems else ("tagging.TaggingTask", FRONT_END)
        tasks += TASK.format(name=name, task=task, model=model, data=own)
    path = tmp_path / "benchmark.yaml"
    path.write_text(
        "name: tiny\narms: [none]\nfractions: [1.0]\nseeds: [0]\n"
        f"data: {{class_path: {RENDERED}, init_args: {{root: {tmp_path}, data_seed: 3, test_tracks: 9}}}}\n"
        f"tasks:{tasks}"
    )
    return load_benchmark(str(path))


def test_no_task_stays_on_the_music_of_the_benchmark(search, tmp_path):
    small = f"root: {tmp_path}, seconds: 1.5, train_tracks: 2, validation_tracks: 2"
    config = load(
        tmp_path,
        plain="null",
        changed="{init_args: {seconds: 1.5, data_seed: 4, train_tracks: 5, test_tracks: 6}}",
        own=f"{{class_path: {RENDERED}, init_args: {{{small}, data_seed: 4, test_tracks: 6}}}}",
        stems=f"{{class_path: {STEMS}, init_args: {{{small}}}}}",
    )
    moved = search.other_music(config)
    data = open_data(moved)
    sizes = {name: (each.config.train, each.config.validation, each.config.test) for name, each in data.items()}
    assert sizes == {"plain": (600, 500, 0), "changed": (5, 500, 0), "own": (2, 2, 0), "stems": (2, 2, 0)}
    assert {each.config.seed for each in data.values()} == {GATE_DATA["data_seed"]}
    data["stems"].prepare_data()
    data["stems"].setup(None)
    assert [len(data["stems"].clips(split)) for split in ("train", "validation", "test")] == [2, 2, 0]
    assert config.task_data(config.tasks["own"]).init_args["data_seed"] == 4  # is not changed itself


def test_a_score_belongs_to_the_data_of_its_task(search, tmp_path):
    paths = []
    for data in ("null", "{init_args: {seconds: 1.5}}", f"{{class_path: {RENDERED}, init_args: {{seconds: 1.5}}}}"):
        config = search.other_music(load(tmp_path, task=data))
        workspace = Workspace(tmp_path, tmp_path)
        paths.append(search.SearchJob(config, config.tasks["task"], 1.0, 100, workspace).path)
    assert len(set(paths)) == 3


def test_data_without_other_music_are_refused(search, tmp_path):
    musdb = "{class_path: sonido_bench.datamodules.musdb18.MUSDB18HQDataModule, init_args: {root: here}}"
    with pytest.raises(ConfigError, match="has no option 'data_seed'"):
        open_data(search.other_music(load(tmp_path, recorded=musdb)))


def test_what_a_search_trains_on_is_extracted(search, tmp_path):
    """Extraction follows the grid of the configuration, which has to be that of the search."""
    sizes = "seconds: 1.5, train_tracks: 10, validation_tracks: 1"
    config = search.other_music(load(tmp_path, tagged=f"{{init_args: {{{sizes}}}}}"))
    config = replace(config, tasks={name: replace(task, seeds=[0]) for name, task in config.tasks.items()})
    config = search.on_seeds(config, [100, 101], [0.1])
    data = open_data(config)
    prepare_data(data.values(), 1)
    extracted = {
        clip for job in make_plan(config, Workspace(tmp_path, tmp_path), data).extractions for clip in job.clips
    }
    task = config.tasks["tagged"]
    for seed in (100, 101):
        assert set(build_data(config, task, "instruments", 0.1, seed).clips("train")) <= extracted
