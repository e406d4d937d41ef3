from pathlib import Path

import pytest

from sonido_bench.benchmark.config import ArmConfig, ClassConfig, Selection, load_benchmark
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.errors import ConfigError

VALID = """
name: tiny
arms: [none, chroma]
fractions: [0.5, 1.0]
seeds: [0, 1, 2]
data: {class_path: some.Data, init_args: {root: here}}
tasks:
  key:
    network: tagger
    model: {class_path: some.Task, init_args: {lr: 0.1}}
    budget: {batch_size: 4, max_steps: 2, validate_every: 1, patience: 1}
"""

WIDE = "{class_path: sonido_bench.foundation.chroma.Chroma, init_args: {compression: 10.0}}"


def load(tmp_path: Path, text: str):
    path = tmp_path / "benchmark.yaml"
    path.write_text(text)
    return load_benchmark(str(path))


def test_grid_is_the_whole_product_seed_by_seed(tmp_path):
    grid = load(tmp_path, VALID).experiments({"key": "rendered"})
    assert len(grid) == len(set(grid)) == 2 * 2 * 3
    assert [experiment.seed for experiment in grid] == [0] * 4 + [1] * 4 + [2] * 4
    assert len({experiment.slug for experiment in grid}) == len(grid)


def test_shipped_benchmark_is_found_by_name():
    assert load_benchmark("quick").name == "quick"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: tiny", "name: tiny\nnmae: x", "unknown entry 'nmae'"),
        ("seeds: [0, 1, 2]", "", "entry 'seeds' is missing"),
        ("[none, chroma]", "[chroma]", "lack 'none'"),
        ("[0.5, 1.0]", "[0.5, 1.5]", r"must lie in \(0, 1\]"),
        ("[0, 1, 2]", "[0, 1, 1]", "twice"),
        ("[0, 1, 2]", "3", "expected a list"),
        ("max_steps: 2", "max_steps: 0", "positive whole number"),
        ("max_steps: 2", "max_stpes: 2", "unknown entry 'max_stpes'"),
        ("tasks:", "tasks: [", "not valid YAML"),
        ("tasks:", "- tasks:", "not valid YAML"),
        ("none, chroma", "none, {wide: {class_path: some.Model}}", "arms: wide: entry 'init_args' is missing"),
        ("none, chroma", "none, {wide: chroma}", "arms: wide: expected named entries"),
        ("none, chroma", f"none, {{a: {WIDE}, b: {WIDE}}}", "one name with its class"),
        ("none, chroma", f"none, {{wide: {WIDE}}}, wide", "twice"),
        ("none, chroma", f"none, {{logmel: {WIDE}}}", "'logmel' has a meaning of its own"),
        ("none, chroma", f"none, {{wide@random: {WIDE}}}", "'wide@random' has a meaning of its own"),
        ("none, chroma", f"{{none: {WIDE}}}", "'none' has a meaning of its own"),
    ],
)
def test_a_wrong_file_gives_one_clear_line(tmp_path, old, new, message):
    assert old in VALID
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, VALID.replace(old, new))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_benchmark_names_the_shipped_ones():
    with pytest.raises(ConfigError, match="quick"):
        load_benchmark("qiuck")


def test_selection_keeps_the_baseline_and_refuses_unknown_names(tmp_path):
    config = load(tmp_path, VALID)
    assert config.select(Selection(arms=["chroma"], seeds=[2])).arms == ["none", "chroma"]
    assert config.select(Selection(seeds=[2])).seeds == [2]
    for selection in (
        Selection(tasks=["kye"]),
        Selection(arms=["x"]),
        Selection(seeds=[9]),
        Selection(fractions=[0.2]),
    ):
        with pytest.raises(ConfigError, match="unknown"):
            config.select(selection)


def test_experiment_config_does_not_depend_on_where_the_data_lie(tmp_path):
    here = load(tmp_path, VALID)
    there = load(tmp_path, VALID.replace("root: here", "root: there"))
    experiment = here.experiments({"key": "rendered"})[0]
    assert here.experiment_config(experiment) == there.experiment_config(experiment)


def test_an_arm_may_be_an_extractor_with_arguments(tmp_path):
    config = load(tmp_path, VALID.replace("[none, chroma]", f"[none, chroma, {{wide: {WIDE}}}, wide@random]"))
    assert config.arms == ["none", "chroma", "wide", "wide@random"]
    wide = ClassConfig("sonido_bench.foundation.chroma.Chroma", {"compression": 10.0})
    assert [config.arm(arm).extractor for arm in config.arms] == [None, None, wide, wide]
    assert config.select(Selection(arms=["wide@random"])).arm("wide@random") == ArmConfig("wide@random", wide)


def test_arguments_of_an_arm_are_recorded_but_for_where_its_weights_lie(tmp_path):
    def recorded(init_args: str):
        arm = f"{{wide: {{class_path: some.Model, init_args: {init_args}}}}}"
        config = load(tmp_path, VALID.replace("[none, chroma]", f"[none, {arm}]"))
        return [config.experiment_config(experiment) for experiment in config.experiments({"key": "rendered"})[:2]]

    baseline, first = recorded("{checkpoint: here, layers: [2]}")
    assert "arm" not in baseline
    assert first["arm"] == {"class_path": "some.Model", "init_args": {"layers": [2]}}
    assert recorded("{checkpoint: there, layers: [2]}") == [baseline, first]
    assert recorded("{checkpoint: here, layers: [3]}")[1] != first


def test_a_task_may_have_data_of_its_own(tmp_path):
    entry = "budget: {batch_size: 4"
    changed = load(tmp_path, VALID.replace(entry, f"data: {{init_args: {{seconds: 3}}}}\n    {entry}"))
    assert changed.task_data(changed.tasks["key"]) == ClassConfig("some.Data", {"root": "here", "seconds": 3})
    own = f"data: {{class_path: other.Data, init_args: {{seconds: 3}}}}\n    {entry}"
    other = load(tmp_path, VALID.replace(entry, own))
    assert other.task_data(other.tasks["key"]) == ClassConfig("other.Data", {"seconds": 3})
    plain = load(tmp_path, VALID)
    assert plain.task_data(plain.tasks["key"]) == plain.data
    recorded = [each.experiment_config(each.experiments({"key": "x"})[0])["data"] for each in (plain, changed, other)]
    assert [each["init_args"] for each in recorded] == [{}, {"seconds": 3}, {"seconds": 3}]
    for wrong, message in (("{}", "expected named entries"), ("{init_agrs: {a: 1}}", "unknown entry 'init_agrs'")):
        with pytest.raises(ConfigError, match=rf"tasks\.key\.data: {message}"):
            load(tmp_path, VALID.replace(entry, f"data: {wrong}\n    {entry}"))


def test_a_workspace_moves_data_that_lie_together(tmp_path):
    entry = "budget: {batch_size: 4"

    def place(root):
        own = f"data: {{class_path: other.Data, init_args: {{root: {root}}}}}\n    {entry}"
        config = load(tmp_path, VALID.replace(entry, own))
        placed = Workspace(tmp_path, tmp_path, Path("there")).place(config)
        return [placed.data.init_args["root"], placed.task_data(placed.tasks["key"]).init_args["root"]]

    assert place("here") == ["there", "there"]
    assert place("elsewhere") == ["there", "elsewhere"]
