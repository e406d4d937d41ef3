import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sonido_bench.audio import read_audio, write_audio
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.generation import GenerationConfig
from sonido_bench.foundation.sonido import generation
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint
from sonido_bench.foundation.sonido.generation import generate
from sonido_bench.foundation.sonido.prior import Prior
from sonido_bench.foundation.transformer.sampling import SamplingConfig
from tests.foundation.sonido.tiny_model import CARD, HOP, RATE, music, tiny_model

SECOND = RATE / HOP  # frames of top


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("generation") / "model"
    save_checkpoint(path, tiny_model(), CARD)
    return path


@pytest.fixture(scope="module")
def following(tmp_path_factory):
    """A model that is conditioned on audio embeddings."""
    path = tmp_path_factory.mktemp("generation") / "following"
    save_checkpoint(path, tiny_model(condition_dim=6), CARD)
    return path


def tokens_of(output):
    return load_file(output / "tokens.safetensors")


def test_from_nothing_in_windows_longer_than_the_context(checkpoint, tmp_path):
    audio = generate(checkpoint, tmp_path, GenerationConfig(seconds=2.5))
    tokens = tokens_of(tmp_path)
    assert {level: tuple(t.shape) for level, t in tokens.items()} == {"top": (1, 78, 2), "mid": (1, 156, 2)}
    samples, rate = read_audio(audio)
    assert (samples.shape, rate) == ((1, 78 * HOP), RATE)


def test_seed_decides(checkpoint, tmp_path):
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        generate(checkpoint, tmp_path / name, GenerationConfig(seconds=0.5, seed=seed))
    assert torch.equal(tokens_of(tmp_path / "a")["mid"], tokens_of(tmp_path / "b")["mid"])
    assert not torch.equal(tokens_of(tmp_path / "a")["mid"], tokens_of(tmp_path / "c")["mid"])


def test_windows_are_what_a_plain_loop_samples(checkpoint, tmp_path):
    """With the likeliest codes there is no chance: each window continues the last half of the one before."""
    greedy = GenerationConfig(seconds=2.0, sampling=SamplingConfig(temperature=0.0))
    generate(checkpoint, tmp_path, greedy)
    prior = load_checkpoint(checkpoint).prior("top")
    expected = prior.sample(torch.zeros(1, 0, 2, dtype=torch.int64), 48, sampling=greedy.sampling)
    while expected.shape[1] < 62:
        steps = min(24, 62 - expected.shape[1])
        window = prior.sample(expected[:, -24:], steps, sampling=greedy.sampling)
        expected = torch.cat([expected, window[:, 24:]], dim=1)
    assert torch.equal(tokens_of(tmp_path)["top"], expected)


def test_interrupted_and_resumed_equals_uninterrupted(checkpoint, tmp_path, monkeypatch):
    config = GenerationConfig(seconds=1.8, hop_fraction=0.25, seed=3)
    generate(checkpoint, tmp_path / "whole", config)
    sample, calls = Prior.sample, []

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return sample(*arguments, **options)

    monkeypatch.setattr(Prior, "sample", stopping)
    interruptions = 0
    while not (tmp_path / "pieces" / "generation.wav").exists():
        try:
            generate(checkpoint, tmp_path / "pieces", config)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 1
    pieces, whole = tokens_of(tmp_path / "pieces"), tokens_of(tmp_path / "whole")
    assert all(torch.equal(pieces[level], whole[level]) for level in whole)
    done = len(calls)
    generate(checkpoint, tmp_path / "pieces", config)
    assert len(calls) == done


def test_other_settings_do_not_overwrite(checkpoint, tmp_path):
    generate(checkpoint, tmp_path, GenerationConfig(seconds=0.2))
    with pytest.raises(ConfigError, match="other settings"):
        generate(checkpoint, tmp_path, GenerationConfig(seconds=0.2, seed=1))


@pytest.mark.parametrize("seconds", [0.5, 4.0])
def test_continues_a_clip_shorter_or_longer_than_the_context(checkpoint, tmp_path, seconds):
    clip = music(seconds)
    write_audio(tmp_path / "clip.wav", clip, RATE)
    generate(checkpoint, tmp_path, GenerationConfig(seconds=0.5, prime=tmp_path / "clip.wav"))
    tokens = tokens_of(tmp_path)
    expected = load_checkpoint(checkpoint).encode(read_audio(tmp_path / "clip.wav")[0])
    frames = clip.shape[1] // HOP
    assert tokens["top"].shape[1] == frames + round(0.5 * SECOND)
    assert torch.equal(tokens["top"][:, :frames], expected["top"])
    assert torch.equal(tokens["mid"][:, : 2 * frames], expected["mid"])


def test_samples_finer_levels_of_given_tokens(checkpoint, tmp_path):
    top = torch.randint(0, 32, (1, 60, 2))
    save_file({"top": top}, tmp_path / "given.safetensors")
    generate(checkpoint, tmp_path / "out", GenerationConfig(tokens=tmp_path / "given.safetensors"))
    tokens = tokens_of(tmp_path / "out")
    assert torch.equal(tokens["top"], top)
    assert tokens["mid"].shape == (1, 120, 2)
    generate(checkpoint, tmp_path / "again", GenerationConfig(tokens=tmp_path / "out" / "tokens.safetensors"))
    assert torch.equal(tokens_of(tmp_path / "again")["mid"], tokens["mid"])


def test_follows_an_embedding(following, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0))
    save_file({"x": torch.arange(6.0) * 7}, tmp_path / "b.safetensors")
    np.save(tmp_path / "c.npy", -np.arange(6.0))
    for name in ("a.npy", "b.safetensors", "c.npy"):
        config = GenerationConfig(seconds=0.3, embedding=tmp_path / name, sampling=SamplingConfig(0.0, guidance=3.0))
        generate(following, tmp_path / name[0], config)
    found = {name: tokens_of(tmp_path / name)["top"] for name in "abc"}
    assert torch.equal(found["a"], found["b"])  # the same direction
    assert not torch.equal(found["a"], found["c"])


def test_follows_a_text(following, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(generation, "embed_text", lambda *given: asked.append(given) or torch.ones(1, 6))
    generate(following, tmp_path, GenerationConfig(seconds=0.1, text="a slow waltz", clap="somewhere"))
    assert asked == [("a slow waltz", 6, "somewhere")]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"seconds": 0.0},
        {"seconds": float("inf")},
        {"seconds": 1.0, "hop_fraction": 0.0},
        {"seconds": 1.0, "tokens": "x"},
        {"tokens": "x", "prime": "y"},
        {"seconds": 1.0, "text": ""},
        {"seconds": 1.0, "text": "x", "embedding": "y"},
    ],
)
def test_contradictions_are_refused(arguments):
    with pytest.raises(ConfigError, match=r"expected|exclude"):
        GenerationConfig(**arguments)


def test_what_the_model_cannot_do_is_refused(checkpoint, tmp_path):
    np.save(tmp_path / "a.npy", np.ones(6))
    with pytest.raises(ConfigError, match="follows no embedding"):
        generate(checkpoint, tmp_path / "out", GenerationConfig(seconds=1.0, embedding=tmp_path / "a.npy"))
    with pytest.raises(ConfigError, match="guidance wants a condition"):
        generate(checkpoint, tmp_path / "out", GenerationConfig(seconds=1.0, sampling=SamplingConfig(guidance=2.0)))
    masked = tmp_path / "masked"
    save_checkpoint(masked, tiny_model(objective="masked", patterns=("bidirectional",)), CARD)
    with pytest.raises(ConfigError, match="masked and cannot generate"):
        generate(masked, tmp_path / "out", GenerationConfig(seconds=1.0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [np.ones(5), np.zeros(6), np.full(6, np.nan), None])
def test_bad_embeddings_are_refused(following, tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(b"no array") if content is None else np.save(path, content)
    with pytest.raises(DataError, match=r"a\.npy: expected"):
        generate(following, tmp_path / "out", GenerationConfig(seconds=1.0, embedding=path))


def test_pickled_embeddings_are_refused(following, tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickle"):
        generate(following, tmp_path / "out", GenerationConfig(seconds=1.0, embedding=tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"mid": torch.zeros(1, 4, 2, dtype=torch.int64)}, "tokens of the level top"),
        ({"top": torch.zeros(1, 4, 3, dtype=torch.int64)}, "top: expected integers"),
        ({"top": torch.zeros(1, 4, 2)}, "top: expected integers"),
        ({"top": torch.full((1, 4, 2), 32)}, "codes from 0 to 31"),
        ({"top": torch.full((1, 4, 2), -1)}, "codes from 0 to 31"),
        (
            {"top": torch.zeros(1, 4, 2, dtype=torch.int64), "mid": torch.zeros(1, 5, 2, dtype=torch.int64)},
            "mid: expected",
        ),
    ],
)
def test_bad_tokens_are_refused(checkpoint, tmp_path, tokens, message):
    save_file(tokens, tmp_path / "given.safetensors")
    with pytest.raises(DataError, match=message):
        generate(checkpoint, tmp_path / "out", GenerationConfig(tokens=tmp_path / "given.safetensors"))


def test_missing_files_are_named(checkpoint, tmp_path):
    with pytest.raises(DataError, match=r"absent\.wav: expected a file for prime"):
        generate(checkpoint, tmp_path, GenerationConfig(seconds=1.0, prime=tmp_path / "absent.wav"))
    write_audio(tmp_path / "short.wav", torch.zeros(1, 20), RATE)
    with pytest.raises(DataError, match=r"expected at least 0\.032 s"):
        generate(checkpoint, tmp_path, GenerationConfig(seconds=1.0, prime=tmp_path / "short.wav"))
