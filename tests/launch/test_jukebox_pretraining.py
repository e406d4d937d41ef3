"""Pre-training of a Jukebox, whole: run, stop, kill, resume, refuse. One run serves all tests."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from sonido_bench.cli import main
from sonido_bench.datamodules.augmentation import Augmentation
from sonido_bench.datamodules.recordings import open_audio, read_track
from sonido_bench.errors import ConfigError
from sonido_bench.foundation.checkpoint import load_card
from sonido_bench.foundation.jukebox.extractor import JukeboxExtractor
from sonido_bench.foundation.jukebox.folder import jukebox_parts, load_checkpoint
from sonido_bench.foundation.jukebox.prior_training import PriorStage
from sonido_bench.foundation.jukebox.vqvae_training import VQVAEStage
from sonido_bench.launch.phase import load_weights, read_summary
from sonido_bench.launch.pretraining_config import JukeboxPretrainingConfig, load_pretraining
from tests.launch import pretraining_runs
from tests.launch.pretraining_runs import assert_same, kill, pieces, rows

CONFIG = Path(__file__).with_name("jukebox_pretraining.yaml")
PHASES = ("vqvae", "priors/top", "priors/bottom")


run = partial(pretraining_runs.run, config=CONFIG)


def test_a_run_leaves_curves_a_figure_and_a_model_with_its_card(folder):
    whole = folder / "whole"
    assert (whole / "history.png").stat().st_size > 5000
    assert [row["step"] for row in rows(whole / "vqvae")] == ["3", "6"]
    assert {"train/loss", "val/loss", "val/spectral", "val/level_1/perplexity"} <= rows(whole / "vqvae")[0].keys()
    for phase in PHASES[1:]:
        assert 0 < float(rows(whole / phase)[0]["val/bits_per_code"]) < 8
    card, extractor = load_card(whole / "model"), JukeboxExtractor(whole / "model")
    assert card.steps == {"vqvae": 6, "priors/top": 4, "priors/bottom": 4}
    assert card.seeds == {"training": 1, "music": 3}
    assert "Dhariwal" in card.citation
    assert extractor.extract(torch.zeros(1, 4000))["layer_1"].shape == (1, 500, 16)
    assert read_summary(whole / "vqvae")["audio_seconds"] == pytest.approx(6 * 4 * 0.5)
    assert read_summary(whole / "priors/top")["audio_seconds"] == pytest.approx(4 * 2 * 64 * 8 / 4000)


def test_the_priors_read_the_codes_of_the_stored_vqvae(folder):
    shards = (folder / "whole" / "tokens").rglob("*.safetensors")
    stored = {name: codes for shard in shards for name, codes in load_file(shard).items()}
    source = open_audio(load_pretraining(CONFIG).at(folder / "data").data)
    model = load_checkpoint(folder / "whole" / "model")
    names = [*(f"{name}/{copy}" for name in source.training for copy in (0, 1)), *(f"{n}/0" for n in source.validation)]
    assert stored.keys() == {f"{name}/level_{level}" for name in names for level in (0, 1)}
    for name in (*source.training, *source.validation):
        codes = model.vqvae.encode(read_track(source.clip(name), 4000, Augmentation())[None])
        for level in (0, 1):
            assert torch.equal(torch.from_numpy(stored[f"{name}/0/level_{level}"]).long(), codes[level][0][:, None])


def test_the_parts_are_what_was_trained(folder):
    parts = jukebox_parts(folder / "whole" / "model")
    for level, name in enumerate(("bottom", "top")):
        trained = load_weights(folder / "whole" / "priors" / name)
        for key, tensor in parts.priors[level].load().state_dict().items():
            assert torch.allclose(tensor, trained[key], rtol=1e-3, atol=1e-6), key


def test_windows_are_told_their_places(folder, monkeypatch):
    told, cost = [], PriorStage._cost

    def spy(self, batch, moment):
        told.append(batch)
        return cost(self, batch, moment)

    monkeypatch.setattr(PriorStage, "_cost", spy)
    assert run(folder, "spied", changes=["priors.top.steps=2", "priors.bottom.steps=4", "tokens.copies=1"])
    tracks = {}
    for shard in (folder / "spied" / "tokens").rglob("*.safetensors"):
        tracks |= {name: codes for name, codes in load_file(shard).items() if name.endswith("level_1")}
    top = [batch for batch in told if "level_0" not in batch]
    assert top
    for batch in top:
        for codes, (start, length) in zip(batch["level_1"], batch["place"].tolist(), strict=True):
            assert length == 500
            span = slice(start, start + len(codes))
            assert any(torch.equal(torch.from_numpy(track[span]).long(), codes) for track in tracks.values())


def test_pieces_give_what_a_run_at_a_stretch_gives(folder, capsys):
    assert pieces(partial(run, folder, "pieces")) > 8
    assert "the same command resumes" in capsys.readouterr().err
    assert_same(folder / "pieces", folder / "whole", PHASES)


@pytest.mark.parametrize(("stage", "step"), [(VQVAEStage, 4), (PriorStage, 3)])
def test_kill_9_between_checkpoints_loses_only_what_came_after_the_last(folder, stage, step):
    name = f"killed in {stage.__name__}"
    kill(partial(run, folder, name), stage, step)
    assert run(folder, name)
    assert_same(folder / name, folder / "whole", PHASES)


def test_a_folder_keeps_to_its_configuration(folder):
    with pytest.raises(ConfigError, match=r"trained with model\.width 4, the configuration says 8"):
        run(folder, "whole", changes=["model.vqvae.width=8"])
    with pytest.raises(ConfigError, match=r"trained with model\.depth 2, the configuration says 3"):
        run(folder, "whole", changes=["model.priors.1.depth=3"])


def test_the_commands_know_the_family(folder, tmp_path, capsys):
    """Pre-train, look at the plan, reconstruct, generate in two steps, extract; the gate is SoniDo's."""
    where = ["-o", str(folder / "whole"), "--data", str(folder / "data"), "--workers", "1"]
    model, clip = str(folder / "whole" / "model"), str(tmp_path / "top" / "generation.wav")
    assert isinstance(load_pretraining(CONFIG), JukeboxPretrainingConfig)
    assert main(["pretrain", str(CONFIG), *where]) == 0
    assert "the model is in" in capsys.readouterr().out
    assert main(["pretrain", str(CONFIG), "--plan"]) == 2
    assert "--plan is for SoniDo" in capsys.readouterr().err
    top = ["generate", "--checkpoint", model, "--seconds", "0.2", "--finest", "1", "-o", str(tmp_path / "top")]
    assert main(top) == main(top) == 0
    upsampled = ["--tokens", str(tmp_path / "top" / "tokens.safetensors"), "-o", str(tmp_path / "all")]
    assert main(["generate", "--checkpoint", model, *upsampled]) == 0
    assert load_file(tmp_path / "all" / "tokens.safetensors")["level_0"].shape == (1, 200)
    assert main(["reconstruct", "--checkpoint", model, clip, "-o", str(tmp_path / "left")]) == 0
    written = {path.name for path in (tmp_path / "left").iterdir()}
    assert written == {"generation.level_0.wav", "generation.level_1.wav"}
    assert main(["extract", clip, "--extractor", model, "--layers", "1", "2", "-o", str(tmp_path)]) == 0
    assert load_file(tmp_path / "generation.safetensors")["layer_2"].shape[1] == 16
    capsys.readouterr()
    assert main(["gate", model]) == 2
    assert "is a jukebox; the gate is for the levels of SoniDo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("codec={steps: 250, batch_size: 8}", "a section vqvae, of a Jukebox, or a section codec"),
        ("vqvae.stesp=8", "stesp"),
        ("vqvae.batch_size=3", "crops must divide batch_size"),
        ("vqvae.segment_seconds=0.01", "linf_k"),
        ("model.priors.0.context=63", "blocks|multiple"),
        ("model.priors.0.hop_length=8", "make them agree"),
        ("model.priors.1.name=upper", "expected a section for each of"),
        ("model.features.layers=[3]", "layers from 0 to 2"),
        ("model.priors.1.lyrics={tokens: 8, vocabulary: 80}", "gives no lyrics"),
        ("tokens.clap=x", "clap"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(change, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_pretraining(CONFIG, [change])
    assert "\n" not in str(error.value)
    assert "jukebox_pretraining.yaml" in str(error.value)
