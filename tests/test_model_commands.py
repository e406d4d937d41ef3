"""What the commands around foundation models do with options that one family of models has and another has not."""

import json
import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sonido_bench.cli import build_parser, main
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.jukebox import checkpoint, generation
from sonido_bench.foundation.jukebox.generation import JukeboxGeneration
from tests.foundation.codec.tiny_codec import CARD as CODEC_CARD
from tests.foundation.codec.tiny_codec import tiny_music_codec
from tests.foundation.jukebox.test_folder import openais, tiny_published
from tests.foundation.jukebox.tiny_jukebox import CARD, jukebox
from tests.foundation.jukebox.tiny_vqvae import CONFIG

__all__ = ["tiny_published"]  # a fixture


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_checkpoint(root / "jukebox", jukebox(), CARD)
    save_checkpoint(root / "codec", tiny_music_codec(), CODEC_CARD)
    return root


@pytest.fixture
def asked(monkeypatch):
    """What Jukebox was asked to generate, in the place of doing it."""
    found = []

    def generate(parts, output, config, device):
        found.append((parts, config, device))
        return output / "generation.wav"

    monkeypatch.setattr(generation, "generate", generate)
    return found


def test_options_reach_jukebox(models, tmp_path, asked):
    prime = tmp_path / "clip.wav"
    options = ["--seconds", "1.5", "--prime", str(prime), "--finest", "1", "--song-seconds", "60", "--seed", "3"]
    options += ["--temperature", "0.9", "--top-k", "5", "--hop-fraction", "0.5", "0.25", "0.125", "--dtype", "bfloat16"]
    command = ["generate", "-o", str(tmp_path), "--checkpoint", str(models / "jukebox")]
    assert main([*command, *options]) == 0
    parts, config, device = asked[0]
    assert (config.seconds, config.prime, config.finest, config.song_seconds, config.seed) == (1.5, prime, 1, 60.0, 3)
    assert (config.hop_fractions, config.sampling.temperature, config.sampling.top_k) == ((0.5, 0.25, 0.125), 0.9, 5)
    assert parts.priors[0].load().music.transformer.blocks[0].mlp_in.weight.dtype == torch.bfloat16
    assert device == "cpu"


def test_what_is_not_given_is_jukeboxs_default(models, tmp_path, asked):
    assert main(["generate", "-o", str(tmp_path), "--checkpoint", str(models / "jukebox"), "--seconds", "1"]) == 0
    assert asked[0][1] == JukeboxGeneration(seconds=1.0)


def test_names_and_lyrics_reach_published_weights(tmp_path, tiny_published, asked):
    folder = openais(tmp_path / "models", "1b_lyrics") / "1b_lyrics"
    for version, artist in {"v2": "alma_cogan", "v3": "alma cogan"}.items():
        (folder / f"{version}_artist_ids.txt").write_text(f"unknown;0\n{artist};3\n")
        (folder / f"{version}_genre_ids.txt").write_text("unknown;0\nrock;2\n")
    (tmp_path / "song.txt").write_text("La la\nla", encoding="utf-8")
    names = ["--artist", "Alma Cogan", "--genre", "Rock", "--lyrics", str(tmp_path / "song.txt")]
    command = ["generate", "-o", str(tmp_path / "out"), "--checkpoint", str(folder), "--seconds", "1"]
    assert main([*command, *names]) == 0
    config = asked[0][1]
    assert (config.artist, config.genre, config.lyrics) == ("Alma Cogan", "Rock", "La la\nla")
    assert [(ids.version, ids.artist_id("Alma Cogan")) for ids in config.ids] == [("v2", 3), ("v3", 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--artist", "Queen"], "expected the ids of artists and genres, v2_artist_ids.txt"),
        (["--artist", "Queen", "--ids", "{ids}"], "unknown artist 'Queen'"),
        (["--genre", "polka", "--ids", "{ids}"], "unknown genre 'polka'"),
        (["--ids", "{ids}"], "--ids is for --artist and --genre"),
        (["--lyrics", "absent.txt"], "absent.txt: expected a text file"),
        (["--preset", "6b"], "'6b' is no top prior"),
        (["--preset", "1b_lyrics"], "is by its name the folder of 5b, not of 1b_lyrics"),
        (["--finest", "3"], "finest of 0 to 2"),
        (["--finest", "2", "--hop-fraction", "0.5"], "as many hop_fractions"),
        (["--song-seconds", "700"], "knows songs of"),
        (["--text", "a waltz"], "follows no embedding or text: leave out --text"),
        (["--clap", "x", "--guidance", "3"], "leave out --clap, --guidance"),
        (["--device", "nowhere"], "no device 'nowhere' here"),
        (["--tokens", "t.safetensors"], "either seconds to sample, or tokens"),
    ],
)
def test_what_published_weights_cannot_do_is_one_line(tmp_path, tiny_published, capsys, options, message):
    folder, ids = openais(tmp_path / "models") / "5b", tmp_path / "ids"
    ids.mkdir()
    for name in ("artists", "genres"):
        (ids / f"{name}.json").write_text(json.dumps({"unknown.v2": 0, "rock.v2": 2}))
    given = [option.format(ids=ids) for option in options]
    command = ["generate", "-o", str(tmp_path / "out"), "--checkpoint", str(folder), "--seconds", "1"]
    assert main([*command, *given]) in (1, 2)
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("jukebox", ["--artist", "Queen"], "unknown artist 'Queen'|expected the ids"),
        ("jukebox", ["--lyrics", "{song}"], "follows no lyrics"),
        ("jukebox", ["--preset", "5b"], "no published Jukebox"),
        ("jukebox", ["--embedding", "e.npy"], "leave out --embedding"),
        ("codec", ["--artist", "Queen"], "is no Jukebox: leave out --artist"),
        ("codec", ["--finest", "0", "--dtype", "float16"], "is no Jukebox: leave out --finest, --dtype"),
        ("codec", ["--hop-fraction", "0.5", "0.5"], "expected one --hop-fraction, got 2"),
        ("codec", ["--clap", "x"], "--clap is for --text"),
        ("codec", ["--guidance", "2"], "guidance wants a condition"),
    ],
)
def test_options_of_another_family_are_refused(models, tmp_path, capsys, model, options, message):
    (tmp_path / "song.txt").write_text("la")
    given = [option.format(song=tmp_path / "song.txt") for option in options]
    command = ["generate", "-o", str(tmp_path / "out"), "--checkpoint", str(models / model), "--seconds", "1"]
    assert main([*command, *given]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_published_weights_sample_and_reconstruct(tmp_path, tiny_published, monkeypatch):
    sizes = {"sample_rate": 44_100, "downs": (3, 2, 2), "strides": (2, 2, 2), "codebook_size": 64}
    folder, output = openais(tmp_path / "models", "1b_lyrics", **sizes), tmp_path / "out"
    reader = partial(checkpoint.load_vqvae, config=replace(CONFIG, **sizes))
    monkeypatch.setattr(checkpoint, "load_vqvae", reader)
    (tmp_path / "song.txt").write_text("la la")
    command = ["generate", "--checkpoint", str(folder), "--preset", "1b_lyrics", "-o", str(output)]
    command += ["--cache", str(tmp_path / "cache"), "--lyrics", str(tmp_path / "song.txt")]
    assert main([*command, "--seconds", "0.06"]) == 0
    lengths = {level: codes.shape[1] for level, codes in load_file(output / "tokens.safetensors").items()}
    assert lengths == {"level_0": 336, "level_1": 84, "level_2": 21}
    assert len(list((tmp_path / "cache").iterdir())) == 3
    clip = str(output / "generation.wav")
    assert main(["reconstruct", clip, "--checkpoint", str(folder), "-o", str(output)]) == 0
    names = {path.name for path in output.glob("*.level_?.wav")}
    assert names == {f"generation.level_{level}.wav" for level in range(3)}


def test_a_codec_still_generates(models, tmp_path):
    command = ["generate", "--checkpoint", str(models / "codec"), "--seconds", "0.2", "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert load_file(tmp_path / "out" / "tokens.safetensors")["codes"].shape[0] == 1
    with safe_open(tmp_path / "out" / "tokens.safetensors", framework="pt") as file:
        settings = json.loads(file.metadata()["settings"])
    assert (settings["clap"], settings["hop_fraction"]) == ("laion/larger_clap_music", 0.5)
    assert settings["sampling"]["temperature"] == 1.0


def test_the_commands_that_the_docs_list_exist():
    text = (Path(__file__).parents[1] / "docs" / "jukebox.md").read_text()
    (listed,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in listed.splitlines()]
    assert len(lines) == 8
    for program, *arguments in lines:
        assert program == "sonido-bench"
        assert build_parser().parse_args(arguments).command
