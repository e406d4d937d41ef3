from pathlib import Path

import pytest
import yaml

from sonido_bench.errors import ConfigError
from sonido_bench.launch.pretraining_config import SonidoPretrainingConfig, load_pretraining

PRESETS = sorted((Path(__file__).parents[2] / "configs" / "foundation").glob("*.yaml"))


def written(path, clap, *condition_dims):
    """Write the tests' pre-training with such a CLAP model, and priors of such condition_dim."""
    values = yaml.safe_load(Path(__file__).with_name("pretraining.yaml").read_text())
    values["tokens"]["clap"] = clap
    for prior, dim in zip(values["model"]["priors"], condition_dims, strict=True):
        prior["condition_dim"] = dim
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_a_pretraining_on_a_page(path):
    config = load_pretraining(path)
    assert config.model.name == path.stem
    assert len(path.read_text().splitlines()) < 40


def test_large_presets_learn_the_condition_that_they_have_a_place_for():
    for path in PRESETS:
        config = load_pretraining(path)
        if not isinstance(config, SonidoPretrainingConfig):
            continue
        wanted = {prior.condition_dim for prior in config.model.priors}
        assert (wanted, config.tokens.clap) in [({512}, "laion/larger_clap_music"), ({None}, None)]


@pytest.mark.parametrize("dims", [(16, 16), (16, None), (None, 16)])
def test_a_condition_wants_a_clap_model(tmp_path, dims):
    assert load_pretraining(written(tmp_path / "right.yaml", "clap", *dims)).tokens.clap == "clap"
    with pytest.raises(ConfigError, match=r"have a condition_dim: expected the CLAP model .* as tokens\.clap") as error:
        load_pretraining(written(tmp_path / "wrong.yaml", None, *dims))
    assert "\n" not in str(error.value)


def test_a_clap_model_wants_a_condition(tmp_path):
    with pytest.raises(ConfigError, match=r"tokens\.clap: expected a prior with a condition_dim, found none") as error:
        load_pretraining(written(tmp_path / "wrong.yaml", "clap", None, None))
    assert "\n" not in str(error.value)


def test_entries_can_be_changed_by_their_path():
    path = Path(__file__).with_name("pretraining.yaml")
    config = load_pretraining(path, ["stage_two.top.steps=8", "model.priors.1.depth=5", "seed=3"])
    assert (config.stage_two["top"].steps, config.model.priors[1].depth, config.seed) == (8, 5, 3)
    plain = load_pretraining(path)
    assert config.stage_one == plain.stage_one
    assert config.model.priors[0] == plain.model.priors[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage_two.top.steps", "expected a change as"),
        ("=3", "expected a change as"),
        ("stage_tow.top.steps=3", "leads nowhere"),
        ("model.priors.9.depth=3", "leads nowhere"),
        ("model.priors.top.depth=3", "leads nowhere"),
        ("seed.low=3", "leads nowhere"),
        ("stage_two.top.stepps=3", "stepps"),
        ("stage_two.top.steps=many", "steps"),
        ("seed=[", "leads nowhere"),
    ],
)
def test_a_wrong_change_is_named_in_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_pretraining(Path(__file__).with_name("pretraining.yaml"), [change])
    assert "\n" not in str(error.value)
