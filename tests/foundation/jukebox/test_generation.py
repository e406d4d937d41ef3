import gc
import weakref
from dataclasses import replace

import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file

from sonido_bench.audio import read_audio, read_mono, write_audio
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.jukebox.generation import JukeboxGeneration, generate, window_starts
from sonido_bench.foundation.jukebox.labels import LabelIds, SongLabels, label_vector, lyric_ids
from sonido_bench.foundation.jukebox.parts import JukeboxParts, PriorSource, published_parts
from sonido_bench.foundation.jukebox.prior import Prior
from sonido_bench.foundation.transformer.sampling import SamplingConfig
from tests.foundation.jukebox.tiny_jukebox import BOTTOM, HOP, MIDDLE, RATE, SUNG, TOP, music, prior, vqvae

IDS = LabelIds("v2", {"queen": 3}, {"rock": 2})
GREEDY = SamplingConfig(temperature=0.0)


@pytest.fixture(scope="module")
def models():
    """Built once: priors by name."""
    return {config.name: prior(config) for config in (TOP, MIDDLE, BOTTOM, SUNG)}


@pytest.fixture
def parts(models):
    return of(models)


def of(models, top=TOP):
    sources = (PriorSource(config, lambda config=config: models[config.name]) for config in (BOTTOM, MIDDLE, top))
    return JukeboxParts("these weights", vqvae, tuple(sources))


def tokens_of(output):
    return load_file(output / "tokens.safetensors")


def lengths(output):
    return {level: codes.shape[1] for level, codes in tokens_of(output).items()}


@pytest.mark.parametrize(
    ("total", "context", "hop", "expected"),
    [
        (30, 48, 6, [0]),
        (48, 48, 6, [0]),
        (49, 48, 6, [0, 1]),
        (60, 48, 6, [0, 6, 12]),
        (61, 48, 6, [0, 6, 12, 13]),
        (128, 64, 32, [0, 32, 64]),
        (20, 8, 8, [0, 8, 12]),
    ],
)
def test_windows_start_every_hop_and_the_last_ends_at_the_end(total, context, hop, expected):
    assert window_starts(total, context, hop) == expected


def test_windows_start_as_theirs():
    modeling = pytest.importorskip("transformers.models.deprecated.jukebox.modeling_jukebox")
    for total in range(16, 60):
        for hop in (2, 8, 16):
            assert window_starts(total, 16, hop) == modeling.get_starts(total, 16, hop)


def test_from_nothing_at_all_levels(parts, tmp_path):
    audio = generate(parts, tmp_path, JukeboxGeneration(seconds=0.6))
    frames = round(0.6 * RATE / HOP)
    assert lengths(tmp_path) == {"level_0": 16 * frames, "level_1": 4 * frames, "level_2": frames}
    samples, rate = read_audio(audio)
    assert (samples.shape, rate) == ((1, frames * HOP), RATE)
    expected = vqvae().decode(tokens_of(tmp_path)["level_0"], 0).clamp(-1, 1)
    assert torch.allclose(samples, expected, atol=1e-4)


def test_seed_decides(parts, tmp_path):
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        generate(parts, tmp_path / name, JukeboxGeneration(seconds=0.2, seed=seed, finest=1))
    found = {name: tokens_of(tmp_path / name)["level_1"] for name in "abc"}
    assert torch.equal(found["a"], found["b"])
    assert not torch.equal(found["a"], found["c"])


def test_windows_are_what_a_plain_loop_samples(parts, models, tmp_path):
    """With the likeliest codes there is no chance: each window is told its place, and what is above it."""
    config = JukeboxGeneration(seconds=1.2, finest=1, sampling=GREEDY, hop_fractions=(0.5, 0.5, 0.25))
    generate(parts, tmp_path, config)
    frames, found = 75, tokens_of(tmp_path)
    song = SongLabels(frames * HOP)
    expected = torch.zeros(1, 0, dtype=torch.int64)
    for start in (0, 12, 24, 27):
        label = label_vector(TOP, song, start * HOP)[None]
        steps = start + 48 - expected.shape[1]
        window = models["top"].sample(expected[:, start:], steps, label, sampling=GREEDY)
        expected = torch.cat([expected[:, :start], window], dim=1)
    assert torch.equal(found["level_2"], expected)
    middle = torch.zeros(1, 0, dtype=torch.int64)
    for start in (*range(0, 4 * frames - 64, 32), 4 * frames - 64):
        label, above = label_vector(MIDDLE, song, start * 32)[None], expected[:, start // 4 : start // 4 + 16]
        steps = start + 64 - middle.shape[1]
        window = models["middle"].sample(middle[:, start:], steps, label, above, GREEDY)
        middle = torch.cat([middle[:, :start], window], dim=1)
    assert torch.equal(found["level_1"], middle)


class Interrupted(Exception):
    pass


def test_interrupted_and_resumed_equals_uninterrupted(parts, tmp_path, monkeypatch):
    config = JukeboxGeneration(seconds=1.1, hop_fractions=(0.5, 0.5, 0.25), seed=3, finest=1)
    generate(parts, tmp_path / "whole", config)
    update, calls = Progress.update, []

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) % 100 == 99:
            raise Interrupted
        return update(*arguments, **options)

    monkeypatch.setattr(Progress, "update", stopping)
    interruptions = 0
    while not (tmp_path / "pieces" / "generation.wav").exists():
        try:
            generate(parts, tmp_path / "pieces", config)
        except Interrupted:
            interruptions += 1
    assert interruptions > 2
    pieces, whole = tokens_of(tmp_path / "pieces"), tokens_of(tmp_path / "whole")
    assert all(torch.equal(pieces[level], whole[level]) for level in whole)
    first, second = (read_audio(tmp_path / name / "generation.wav")[0] for name in ("pieces", "whole"))
    assert torch.equal(first, second)


def test_what_is_finished_loads_nothing(parts, tmp_path):
    config = JukeboxGeneration(seconds=0.2, finest=2)
    generate(parts, tmp_path, config)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse():
        raise AssertionError("nothing is to be loaded")

    sources = tuple(replace(source, load=refuse) for source in parts.priors)
    assert generate(replace(parts, priors=sources, vqvae=refuse), tmp_path, config).name == "generation.wav"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_prior_at_a_time_is_in_memory(tmp_path):
    alive, most = [], []

    def load(config):
        gc.collect()
        most.append(sum(reference() is not None for reference in alive))
        model = prior(config)
        alive.append(weakref.ref(model))
        return model

    sources = tuple(PriorSource(config, lambda config=config: load(config)) for config in (BOTTOM, MIDDLE, TOP))
    generate(JukeboxParts("x", vqvae, sources), tmp_path, JukeboxGeneration(seconds=0.1))
    assert most == [0, 0, 0]


def test_other_settings_do_not_overwrite(parts, tmp_path):
    generate(parts, tmp_path, JukeboxGeneration(seconds=0.1, finest=2))
    for other in ({"seed": 1}, {"lyrics": ""}, {"artist": "queen", "ids": (IDS,)}):
        config = JukeboxGeneration(seconds=0.1, finest=2, **other)
        if "lyrics" in other:
            generate(parts, tmp_path, config)
            continue
        with pytest.raises(ConfigError, match="other settings"):
            generate(parts, tmp_path, config)
    with pytest.raises(ConfigError, match="other settings"):
        generate(replace(parts, identity="others"), tmp_path, JukeboxGeneration(seconds=0.1, finest=2))


@pytest.mark.parametrize("seconds", [0.3, 1.2])
def test_continues_a_clip_at_all_levels(parts, tmp_path, seconds):
    clip = music(seconds)
    write_audio(tmp_path / "clip.wav", clip, RATE)
    generate(parts, tmp_path / "out", JukeboxGeneration(seconds=0.2, prime=tmp_path / "clip.wav", finest=1))
    frames, found = clip.shape[1] // HOP, tokens_of(tmp_path / "out")
    assert lengths(tmp_path / "out") == {"level_1": 4 * (frames + 12), "level_2": frames + 12}
    expected = vqvae().encode(read_mono(tmp_path / "clip.wav", RATE))
    assert torch.equal(found["level_2"][:, :frames], expected[2])
    assert torch.equal(found["level_1"][:, : 4 * frames], expected[1])


def test_samples_the_levels_below_given_codes(parts, tmp_path):
    generate(parts, tmp_path / "top", JukeboxGeneration(seconds=0.3, finest=2))
    config = JukeboxGeneration(tokens=tmp_path / "top" / "tokens.safetensors")
    generate(parts, tmp_path / "all", config)
    top, whole = tokens_of(tmp_path / "top"), tokens_of(tmp_path / "all")
    assert torch.equal(whole["level_2"], top["level_2"])
    assert lengths(tmp_path / "all") == {"level_0": 16 * 19, "level_1": 4 * 19, "level_2": 19}
    save_file({"level_1": whole["level_1"]}, tmp_path / "middle.safetensors")
    generate(parts, tmp_path / "bottom", JukeboxGeneration(tokens=tmp_path / "middle.safetensors"))
    assert torch.equal(tokens_of(tmp_path / "bottom")["level_0"], whole["level_0"])


def asked(monkeypatch):
    """What priors were told, window by window: name and label vector."""
    told, sample = [], Prior.sample

    def spy(self, prompt, steps, labels, *arguments, **options):
        told.append((self.config.name, labels[0].tolist()))
        return sample(self, prompt, steps, labels, *arguments, **options)

    monkeypatch.setattr(Prior, "sample", spy)
    return told


def test_priors_are_told_place_names_and_the_lyrics_of_the_window(models, tmp_path, monkeypatch):
    told, lyrics = asked(monkeypatch), "la la la, do re mi fa sol"
    config = JukeboxGeneration(
        seconds=1.0, finest=2, lyrics=lyrics, artist="Queen", genre="rock", ids=(IDS,), hop_fractions=(0.5, 0.5, 0.125)
    )
    generate(of(models, SUNG), tmp_path, config)
    song = SongLabels(62 * HOP, 3, (2,), tuple(lyric_ids(lyrics, "v2")))
    expected = [("sung", label_vector(SUNG, song, start * HOP).tolist()) for start in (0, 6, 12, 14)]
    assert told == expected
    assert len({tuple(vector[-12:]) for _, vector in told}) > 1


def test_a_short_song_is_told_to_be_as_short_as_the_prior_knows(models, tmp_path, monkeypatch):
    told, parts = asked(monkeypatch), of(models)
    generate(parts, tmp_path / "a", JukeboxGeneration(seconds=0.1, finest=2))
    generate(parts, tmp_path / "b", JukeboxGeneration(seconds=0.1, finest=2, song_seconds=62.0))
    assert [vector[:3] for _, vector in told] == [[13 * HOP, 0, 48 * HOP], [62 * RATE, 0, 48 * HOP]]
    assert 13 * HOP >= 0.2 * RATE > 12 * HOP


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"seconds": 0.0},
        {"seconds": float("inf")},
        {"seconds": 1.0, "song_seconds": -1.0},
        {"seconds": 1.0, "hop_fractions": (0.5, 0.0, 0.5)},
        {"seconds": 1.0, "tokens": "x"},
        {"tokens": "x", "prime": "y"},
    ],
)
def test_contradictions_are_refused(arguments):
    with pytest.raises(ConfigError, match=r"expected|exclude"):
        JukeboxGeneration(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"finest": 3}, "finest of 0 to 2"),
        ({"hop_fractions": (0.5,)}, "as many hop_fractions"),
        ({"lyrics": "la"}, "follows no lyrics"),
        ({"artist": "Queen"}, "give them as LabelIds"),
        ({"sampling": SamplingConfig(guidance=2.0)}, "no guidance"),
        ({"song_seconds": 0.5}, "song_seconds of 0.99 s at least"),
    ],
)
def test_what_the_model_cannot_do_is_refused(parts, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        generate(parts, tmp_path / "out", JukeboxGeneration(seconds=1.0, **arguments))
    assert not (tmp_path / "out").exists()


def test_songs_of_a_length_that_no_prior_knows_are_refused_before_anything_is_loaded(parts, tmp_path):
    with pytest.raises(ConfigError, match="less than 600 s"):
        generate(parts, tmp_path / "out", JukeboxGeneration(seconds=1.0, song_seconds=700.0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"level_3": torch.zeros(1, 4, dtype=torch.int64)}, "one of level_0, level_1, level_2"),
        ({"level_2": torch.zeros(1, 4)}, "level_2: expected integers"),
        ({"level_2": torch.zeros(4, dtype=torch.int64)}, "level_2: expected integers"),
        ({"level_2": torch.full((1, 4), 16)}, "codes from 0 to 15"),
        (
            {"level_2": torch.zeros(1, 4, dtype=torch.int64), "level_1": torch.zeros(1, 5, dtype=torch.int64)},
            r"level_1: expected integers \(1, 16\)",
        ),
    ],
)
def test_bad_tokens_are_refused(parts, tmp_path, tokens, message):
    save_file(tokens, tmp_path / "given.safetensors")
    with pytest.raises(DataError, match=message):
        generate(parts, tmp_path / "out", JukeboxGeneration(tokens=tmp_path / "given.safetensors"))


def test_missing_files_are_named(parts, tmp_path):
    with pytest.raises(DataError, match=r"absent\.wav: expected a file for prime"):
        generate(parts, tmp_path, JukeboxGeneration(seconds=1.0, prime=tmp_path / "absent.wav"))


def test_priors_must_stand_on_each_other(parts):
    bottom, middle, top = parts.priors
    with pytest.raises(ConfigError, match="up to a top prior"):
        replace(parts, priors=(bottom, middle))
    with pytest.raises(ConfigError, match="bottom cannot be conditioned on top"):
        replace(parts, priors=(bottom, top))
    with pytest.raises(ConfigError, match="is an upsampler"):
        published_parts("upsampler_1", "nowhere")
