import pickle
from dataclasses import replace

import pytest
import torch
import yaml

from sonido_bench.benchmark.results import save_result
from sonido_bench.errors import ConfigError, DataError, ResultError
from sonido_bench.launch.trained import load_trained
from tests.benchmark.fabricate import make_result
from tests.launch.trained_runs import CHROMA, make_run


@pytest.mark.parametrize("extractor", [None, CHROMA])
def test_a_run_is_named_by_its_folder_or_its_checkpoint(tmp_path, extractor):
    run = make_run(tmp_path / "version_0", "mix", extractor)
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for named in (run, run / "checkpoints", run / "checkpoints" / "best.ckpt"):
        task = load_trained(named)
        assert not task.training
        assert (task.extractor is None) == (extractor is None)
        weights = task.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in stored.items())


def test_the_only_checkpoint_of_a_folder_is_taken_and_several_are_not_guessed(tmp_path):
    run = make_run(tmp_path / "run", "mix")
    best = run / "checkpoints" / "best.ckpt"
    other = best.rename(best.with_name("epoch=3-step=9.ckpt"))
    load_trained(run)
    other.with_name("epoch=4-step=12.ckpt").write_bytes(other.read_bytes())
    with pytest.raises(ConfigError, match=r"one named best\.ckpt, found 2"):
        load_trained(run)
    load_trained(other)


@pytest.mark.parametrize("arm", ["none", "chroma", "mine"])
def test_a_run_of_a_benchmark_is_named_by_its_result_or_its_checkpoint(tmp_path, arm):
    run = make_run(tmp_path / "run", "tags", None if arm == "none" else CHROMA)
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    del model["init_args"]["extractor"]
    budget = {"batch_size": 2, "max_steps": 4, "validate_every": 2, "patience": 2}
    result = make_result("instruments", arm)
    config = {"experiment": result.experiment.as_dict(), "model": model, "budget": budget, "data": {}}
    described = save_result(tmp_path, replace(result, config={**config, **({"arm": CHROMA} if arm == "mine" else {})}))
    folder = tmp_path / "checkpoints" / result.experiment.slug
    folder.parent.mkdir()
    (run / "checkpoints").rename(folder)
    for named in (described, folder, folder / "best.ckpt"):
        task = load_trained(named)
        assert (task.extractor is None) == (arm == "none")
        stored = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(task.state_dict()[name], value) for name, value in stored.items())
    described.unlink()
    with pytest.raises(ConfigError, match="or the result of its run, found neither"):
        load_trained(folder)


def test_missing_and_wrong_runs_are_one_error(tmp_path):
    run = make_run(tmp_path / "run", "mix")
    with pytest.raises(ConfigError, match="there is no run"):
        load_trained(tmp_path / "none")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "x.ckpt").write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
    with pytest.raises(ConfigError, match=r"config\.yaml beside the checkpoint"):
        load_trained(tmp_path / "alone" / "x.ckpt")
    (tmp_path / "alone" / "config.yaml").write_text("data: 3")
    with pytest.raises(ConfigError, match="expected a configuration of `sonido-bench fit`"):
        load_trained(tmp_path / "alone")
    (tmp_path / "alone" / "config.yaml").write_text("model: {class_path: pathlib.Path, init_args: {}}")
    with pytest.raises(ConfigError, match=r"class of a task, found pathlib\.Path"):
        load_trained(tmp_path / "alone")
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ResultError, match="schema"):
        load_trained(tmp_path / "r.json")


def test_damaged_and_hostile_checkpoints_are_refused(tmp_path):
    run = make_run(tmp_path / "run", "mix")
    path = run / "checkpoints" / "best.ckpt"
    whole = path.read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2], pickle.dumps({"state_dict": Danger()})):
        path.write_bytes(content)
        with pytest.raises(DataError, match="expected a checkpoint of weights") as found:
            load_trained(run)
        assert len(str(found.value).splitlines()) == 1
    assert not Danger.ran
    torch.save({"state_dict": [1, 2]}, path)
    with pytest.raises(DataError, match="no weights"):
        load_trained(run)
    path.unlink()
    with pytest.raises(ConfigError, match="found 0"):
        load_trained(run)


class Danger:
    ran = False

    def __reduce__(self):
        return setattr, (Danger, "ran", True)


def test_weights_of_another_network_or_extractor_are_refused(tmp_path):
    run, other = make_run(tmp_path / "run", "mix"), make_run(tmp_path / "other", "mix", CHROMA, growth=6)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("growth: 4", "growth: 6"))
    with pytest.raises(DataError, match="do not fit the task"):
        load_trained(run)
    (run / "config.yaml").write_text((other / "config.yaml").read_text())
    with pytest.raises(ConfigError, match="trained with extractor None"):
        load_trained(run)
    (run / "config.yaml").write_text(config.replace("growth", "grwoth"))
    with pytest.raises(ConfigError, match="no option 'grwoth'"):
        load_trained(run)
