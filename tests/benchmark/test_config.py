from pathlib import Path

import pytest

from sonido_bench.benchmark.config import ArmConfig, ClassConfig, Selection, load_benchmark
from sonido_bench.benchmark.experiment import Experiment
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

TWO_TASKS = (
    VALID
    + """
  mixing:
    network: crafx
    model: {class_path: some.Mixing, init_args: {lr: 0.1}}
    budget: {batch_size: 4, max_steps: 2, validate_every: 1, patience: 1}
    fractions: [0.25, 1.0]
    seeds: [1, 7]
"""
)
"""The second with a grid of its own."""

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
        ("[0, 1, 2]", "[0, 1.5]", "seeds: expected whole numbers"),
        ("[0.5, 1.0]", "[half]", "fractions: expected numbers"),
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


def cells(config):
    """Seed, task, fraction and arm of the whole grid, in its order."""
    grid = config.experiments(dict.fromkeys(config.tasks, "rendered"))
    return [(each.seed, each.task, each.fraction, each.arm) for each in grid]


def test_a_task_may_have_a_grid_of_its_own(tmp_path):
    config = load(tmp_path, TWO_TASKS)
    key, mixing = config.tasks.values()
    assert (config.task_fractions(key), config.task_seeds(key)) == ([0.5, 1.0], [0, 1, 2])
    assert (config.task_fractions(mixing), config.task_seeds(mixing)) == ([0.25, 1.0], [1, 7])
    grid = cells(config)
    assert len(grid) == len(set(grid)) == 2 * 3 * 2 + 2 * 2 * 2
    assert {cell[1:3] for cell in grid} == {("key", 0.5), ("key", 1.0), ("mixing", 0.25), ("mixing", 1.0)}
    assert [seed for seed, *_ in grid] == [0] * 4 + [1] * 8 + [2] * 4 + [7] * 4
    for baseline, boosted in zip(grid[::2], grid[1::2], strict=True):  # stopped anywhere, at most one run has no pair
        assert baseline[:-1] == boosted[:-1]
        assert (baseline[-1], boosted[-1]) == ("none", "chroma")


def test_either_list_alone_may_be_the_tasks(tmp_path):
    fewer = load(tmp_path, TWO_TASKS.replace("    fractions: [0.25, 1.0]\n", ""))
    assert {cell[2] for cell in cells(fewer) if cell[1] == "mixing"} == {0.5, 1.0}
    same_seeds = load(tmp_path, TWO_TASKS.replace("    seeds: [1, 7]\n", "    seeds:\n"))
    assert {cell[0] for cell in cells(same_seeds) if cell[1] == "mixing"} == {0, 1, 2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0.25, 1.0]", "[0.25, 0.0]", r"fractions must lie in \(0, 1\], got 0.0"),
        ("[0.25, 1.0]", "[]", r"fractions: expected a list"),
        ("[0.25, 1.0]", "0.25", r"fractions: expected a list"),
        ("[0.25, 1.0]", "[1, 1.0]", "fractions has an entry twice"),
        ("[1, 7]", "[7, 7]", "seeds has an entry twice"),
        ("[1, 7]", "[]", "seeds: expected a list"),
        ("[1, 7]", "[seven]", "seeds: expected whole numbers"),
        ("seeds: [1, 7]", "seed: [1, 7]", ": unknown entry 'seed'"),
    ],
)
def test_a_wrong_grid_of_a_task_is_named(tmp_path, old, new, message):
    assert old in TWO_TASKS
    with pytest.raises(ConfigError, match=rf"benchmark\.yaml: tasks\.mixing\.?{message}") as caught:
        load(tmp_path, TWO_TASKS.replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (Selection(fractions=[1.0]), {("key", 1.0, seed) for seed in range(3)} | {("mixing", 1.0, s) for s in (1, 7)}),
        (Selection(fractions=[0.25]), {("mixing", 0.25, 1), ("mixing", 0.25, 7)}),
        (Selection(fractions=[0.25, 0.5], seeds=[0, 1]), {("key", 0.5, 0), ("key", 0.5, 1), ("mixing", 0.25, 1)}),
        (Selection(seeds=[7]), {("mixing", 0.25, 7), ("mixing", 1.0, 7)}),
        (Selection(tasks=["mixing"], seeds=[1, 0]), {("mixing", 0.25, 1), ("mixing", 1.0, 1)}),
    ],
)
def test_a_selection_is_of_each_tasks_own_grid(tmp_path, selection, left):
    config = load(tmp_path, TWO_TASKS)
    chosen = config.select(selection)
    assert {(task, fraction, seed) for seed, task, fraction, _ in cells(chosen)} == left
    assert list(chosen.tasks) == [name for name in config.tasks if name in {task for task, *_ in left}]
    assert cells(chosen) == [cell for cell in cells(config) if (cell[1], cell[2], cell[0]) in left]


def test_a_selection_of_nothing_is_refused(tmp_path):
    config = load(tmp_path, TWO_TASKS)
    for selection, message in (
        (Selection(fractions=[0.3]), "unknown fraction 0.3; this benchmark has 0.5, 1.0, 0.25"),
        (Selection(seeds=[3]), "unknown seed 3; this benchmark has 0, 1, 2, 7"),
        (Selection(tasks=["key"], fractions=[0.25]), "nothing is left of the grid: of key, .* fractions 0.25 "),
        (Selection(tasks=["key"], seeds=[7]), "nothing is left of the grid: .* seeds 7$"),
        (Selection(fractions=[0.5], seeds=[7]), "nothing is left of the grid: of key, mixing, "),
    ):
        with pytest.raises(ConfigError, match=message):
            config.select(selection)


def test_a_grid_is_no_part_of_what_decides_a_run(tmp_path):
    """Results stay valid when fractions or seeds are added, for the benchmark or for a task."""
    own, plain = load(tmp_path, TWO_TASKS), load(tmp_path, TWO_TASKS.split("    fractions")[0])
    for name in own.tasks:
        experiment = Experiment(name, "net", "rendered", "chroma", 1.0, 1)
        assert own.experiment_config(experiment) == plain.experiment_config(experiment)
        assert set(own.experiment_config(experiment)) == {"experiment", "model", "budget", "data"}


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
