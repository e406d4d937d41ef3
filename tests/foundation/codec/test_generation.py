import pytest
import torch
from safetensors.torch import load_file

from sonido_bench.audio import read_audio, write_audio
from sonido_bench.cli import main
from sonido_bench.errors import ConfigError
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.codec import generation
from sonido_bench.foundation.codec.checkpoint import load_checkpoint
from sonido_bench.foundation.codec.generation import generate
from sonido_bench.foundation.codec.reconstruction import reconstruct
from sonido_bench.foundation.codec.sampling import sample
from sonido_bench.foundation.generation import GenerationConfig
from sonido_bench.foundation.transformer.sampling import SamplingConfig
from tests.foundation.codec.tiny_codec import CARD, HOP, RATE, tiny_music_codec, tones


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("generation") / "model"
    save_checkpoint(path, tiny_music_codec(), CARD)
    return path


def codes_of(output):
    return load_file(output / "tokens.safetensors")["codes"]


def test_from_nothing_longer_than_the_context(checkpoint, tmp_path):
    audio = generate(checkpoint, tmp_path, GenerationConfig(seconds=0.9))
    assert codes_of(tmp_path).shape == (1, 90, 3)
    samples, rate = read_audio(audio)
    assert (samples.shape, rate) == ((1, 90 * HOP), RATE)


def test_the_likeliest_codes_are_those_of_one_call_of_sample(checkpoint, tmp_path):
    greedy = SamplingConfig(temperature=0)
    generate(checkpoint, tmp_path, GenerationConfig(seconds=0.9, sampling=greedy))
    expected = sample(load_checkpoint(checkpoint).language_model, 90, sampling=greedy, hop_fraction=0.5).codes
    assert torch.equal(codes_of(tmp_path), expected)


def test_interrupted_and_resumed_equals_uninterrupted(checkpoint, tmp_path, monkeypatch):
    config = GenerationConfig(seconds=1.0, seed=3)
    generate(checkpoint, tmp_path / "whole", config)
    calls = []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return sample(*arguments)

    monkeypatch.setattr(generation, "sample", stopping)
    interruptions = 0
    while not (tmp_path / "pieces" / "generation.wav").exists():
        try:
            generate(checkpoint, tmp_path / "pieces", config)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 1
    assert torch.equal(codes_of(tmp_path / "pieces"), codes_of(tmp_path / "whole"))
    done = len(calls)
    generate(checkpoint, tmp_path / "pieces", config)
    assert len(calls) == done
    with pytest.raises(ConfigError, match="other settings"):
        generate(checkpoint, tmp_path / "pieces", GenerationConfig(seconds=1.0, seed=4))


@pytest.mark.parametrize("seconds", [0.2, 0.8])
def test_continues_a_clip_shorter_or_longer_than_the_context(checkpoint, tmp_path, seconds):
    write_audio(tmp_path / "clip.wav", tones(1, seconds)[:, :-3], RATE)
    generate(checkpoint, tmp_path, GenerationConfig(seconds=0.3, prime=tmp_path / "clip.wav"))
    whole = round(seconds * RATE - 3) // HOP
    expected = load_checkpoint(checkpoint).encode(read_audio(tmp_path / "clip.wav")[0][:, : whole * HOP])
    codes = codes_of(tmp_path)
    assert codes.shape == (1, whole + 30, 3)
    assert torch.equal(codes[:, :whole], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "x"], "give seconds to sample, and no tokens"),
        (["--seconds", "1", "--text", "x"], "follows no embedding or text"),
        (["--seconds", "1", "--embedding", "x"], "follows no embedding or text"),
        (["--seconds", "1", "--guidance", "2"], "give guidance 1"),
    ],
)
def test_what_does_not_apply_is_one_clear_line(checkpoint, tmp_path, capsys, options, message):
    assert main(["generate", "-o", str(tmp_path / "out"), "--checkpoint", str(checkpoint), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_commands_take_a_codec(checkpoint, tmp_path, capsys):
    write_audio(tmp_path / "song.wav", tones(1, 0.5)[:, :-3], 2 * RATE)
    where = ["-o", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    assert main(["reconstruct", str(tmp_path / "song.wav"), *where]) == 0
    assert main(["generate", "--seconds", "0.2", "--top-k", "4", *where]) == 0
    names = [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]
    assert names == ["song.1.wav", "song.1+2.wav", "song.1+2+3.wav", "generation.wav"]
    assert main(["gate", str(checkpoint)]) == 2


def test_reconstruction_is_decoding_of_the_codes(checkpoint, tmp_path):
    write_audio(tmp_path / "song.wav", tones(1, 0.5)[:, :-3], RATE)
    paths = reconstruct(checkpoint, tmp_path / "song.wav", tmp_path)
    model, (audio, _) = load_checkpoint(checkpoint), read_audio(tmp_path / "song.wav")
    codes = model.encode(audio)
    for count, path in enumerate(paths.values(), start=1):
        expected = model.decode(codes, count)[:, : audio.shape[1]].clamp(-1, 1)
        assert torch.allclose(read_audio(path)[0], expected, atol=1e-4)
