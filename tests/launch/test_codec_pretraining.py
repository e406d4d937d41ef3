"""Pre-training of a codec and its language model, whole: run, stop, kill, resume, refuse. One run serves all tests."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.numpy import load_file

from sonido_bench.cli import main
from sonido_bench.datamodules.augmentation import Augmentation
from sonido_bench.datamodules.recordings import open_audio, read_track
from sonido_bench.errors import ConfigError
from sonido_bench.foundation.checkpoint import load_card
from sonido_bench.foundation.codec.checkpoint import load_checkpoint
from sonido_bench.foundation.codec.extractor import CodecExtractor
from sonido_bench.foundation.codec.language_model_training import LanguageModelPhase
from sonido_bench.foundation.codec.training import CodecStage
from sonido_bench.launch.phase import read_summary
from sonido_bench.launch.pretraining_config import CodecPretrainingConfig, load_pretraining
from tests.launch import pretraining_runs
from tests.launch.pretraining_runs import assert_same, kill, pieces, rows

CONFIG = Path(__file__).with_name("codec_pretraining.yaml")
PHASES = ("codec", "language_model")

run = partial(pretraining_runs.run, config=CONFIG)


def test_a_run_leaves_curves_a_figure_and_a_model_with_its_card(folder):
    whole = folder / "whole"
    assert (whole / "history.png").stat().st_size > 5000
    assert [row["step"] for row in rows(whole / "codec")] == ["3", "6"]
    assert {"train/loss", "val/loss", "val/si_snr", "train/independence"} <= rows(whole / "codec")[0].keys()
    assert "val/bits_per_frame" in rows(whole / "language_model")[0]
    card, extractor = load_card(whole / "model"), CodecExtractor(whole / "model")
    assert card.steps == {"codec": 6, "language_model": 4}
    assert card.seeds == {"training": 1, "music": 3}
    assert "Copet" in card.citation
    assert extractor.extract(torch.zeros(1, 4000))["layer_1"].shape == (1, 100, 12)
    assert read_summary(whole / "codec")["audio_seconds"] == pytest.approx(6 * 4 * 0.5)
    assert read_summary(whole / "language_model")["audio_seconds"] == pytest.approx(4 * 2 * 0.4)


def test_the_language_model_reads_the_codes_of_the_stored_codec(folder):
    shards = (folder / "whole" / "tokens").rglob("*.safetensors")
    stored = {name: codes for shard in shards for name, codes in load_file(shard).items()}
    config = load_pretraining(CONFIG).at(folder / "data")
    source, model = open_audio(config.data), load_checkpoint(folder / "whole" / "model")
    names = [*(f"{name}/{copy}" for name in source.training for copy in (0, 1)), *(f"{n}/0" for n in source.validation)]
    assert stored.keys() == {f"{name}/codes" for name in names}
    for name in (*source.training, *source.validation):
        codes = model.encode(read_track(source.clip(name), 4000, Augmentation())[None])[0]
        assert torch.equal(torch.from_numpy(stored[f"{name}/0/codes"]).long(), codes)


def test_pieces_give_what_a_run_at_a_stretch_gives(folder, capsys):
    assert pieces(partial(run, folder, "pieces")) > 8
    assert "the same command resumes" in capsys.readouterr().err
    assert_same(folder / "pieces", folder / "whole", PHASES)


@pytest.mark.parametrize(("stage", "step"), [(CodecStage, 4), (LanguageModelPhase, 3)])
def test_kill_9_between_checkpoints_loses_only_what_came_after_the_last(folder, stage, step):
    name = f"killed in {stage.__name__}"
    kill(partial(run, folder, name), stage, step)
    assert run(folder, name)
    assert_same(folder / name, folder / "whole", PHASES)


def test_a_folder_keeps_to_its_configuration(folder):
    with pytest.raises(ConfigError, match=r"trained with independence\.weight 0\.5, the configuration says 2"):
        run(folder, "whole", changes=["independence.weight=2"])
    with pytest.raises(ConfigError, match=r"trained with model\.width 12, the configuration says 16"):
        run(folder, "whole", changes=["model.language_model.width=16"])


def test_with_a_discriminator_and_without_an_independence_loss(folder):
    changes = ["independence=null", "adversary={n_ffts: [64], filters: 2}", "codec.steps=3", "language_model.steps=2"]
    assert run(folder, "adversary", changes=changes)
    (row,) = rows(folder / "adversary" / "codec")
    assert "train/discriminator" in row
    assert "train/independence" not in row


def test_the_command_chooses_by_the_sections_of_the_file(folder, tmp_path, capsys):
    where = ["-o", str(folder / "whole"), "--data", str(folder / "data"), "--workers", "1"]
    assert main(["pretrain", str(CONFIG), *where]) == 0
    assert "the model is in" in capsys.readouterr().out
    assert isinstance(load_pretraining(CONFIG), CodecPretrainingConfig)
    assert main(["pretrain", str(CONFIG), "--plan"]) == 2
    assert "--plan is for SoniDo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage_one={steps: 250, batch_size: 8}", "expected either a section stage_one, .* or a section codec"),
        ("codec.stesp=8", "stesp"),
        ("codec.batch_size=3", "crops must divide batch_size"),
        ("independence.delays=[0, 1]", "expected one for each of 3 codebooks"),
        ("independence.weight=-1", "must not be below 0"),
        ("adversary={filters: 0}", "positive n_ffts and filters"),
        ("model.language_model.condition_dim=4", "gives no conditions"),
        ("model.language_model.codebooks=4", "make them agree"),
        ("tokens.clap=x", "clap"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(change, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_pretraining(CONFIG, [change])
    assert "\n" not in str(error.value)
    assert "codec_pretraining.yaml" in str(error.value)


def test_a_file_of_no_family_is_refused(tmp_path):
    values = yaml.safe_load(CONFIG.read_text())
    del values["codec"]
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"expected either a section stage_one, .* found data, independence"):
        load_pretraining(tmp_path / "none.yaml")
