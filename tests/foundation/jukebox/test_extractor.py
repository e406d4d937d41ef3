from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sonido_bench.benchmark.config import ArmConfig, ClassConfig
from sonido_bench.benchmark.instantiate import arm_extractor
from sonido_bench.errors import ConfigError
from sonido_bench.features.check import check_extractor
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.controls import randomised
from sonido_bench.foundation.jukebox import extractor as module
from sonido_bench.foundation.jukebox.extractor import JukeboxExtractor, JukeboxFeatures
from sonido_bench.foundation.jukebox.folder import load_checkpoint
from sonido_bench.foundation.jukebox.presets import prior_preset
from tests.foundation.jukebox.tiny_jukebox import CARD, HOP, MIDDLE, RATE, SUNG, TOP, jukebox, music, prior, vqvae


def features(config=TOP, **arguments):
    return JukeboxFeatures(vqvae(), prior(config), **({"layers": (4,)} | arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pool": 3, "layers": (0, 2), "normalise": False},
        {"dtype": "bfloat16"},
        {"config": SUNG, "layers": (2,), "normalise": False},
    ],
    ids=["plain", "pooled", "half", "lyrics in sequence"],
)
def test_keeps_the_contract(arguments):
    """Most take audio as loud as it is, since a click that is the peak changes every frame.

    They look at early layers: random attention carries a click on through later ones.
    """
    findings = check_extractor(features(**arguments))
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.parametrize("pool", [1, 4])
def test_code_embeddings_keep_the_contract(pool):
    extractor = JukeboxFeatures(vqvae(), None, pool=pool)
    assert [finding for finding in check_extractor(extractor) if not finding.passed] == []
    audio = music(0.7)
    tokens = vqvae().encode_level(audio / audio.abs().max(), 2)
    expected = vqvae().embed(tokens, 2)[:, : 40 // pool * pool].unflatten(1, (-1, pool)).mean(dim=2)
    assert torch.allclose(extractor.extract(audio)["codes"][:, : 40 // pool], expected, atol=1e-6)
    assert extractor.spec.grid("codes").first_centre == pytest.approx(pool * HOP / 2 / RATE)


def test_as_jukemir_at_full_length():
    """Names, numbers and shapes of jukemir's `5b`, with fewer channels and codes: 24 s, 8192 frames, 62 s of timing."""
    config = replace(prior_preset("5b"), width=16, depth=3, heads=2, codebook_size=16)
    tokenizer, model = vqvae(sample_rate=44_100), prior(config)
    audio = music(25.0, rate=44_100)
    expected = torch.tensor([[2_734_080, 0, 1_048_576, 0, 0, -1, -1, -1, -1]])
    codes = tokenizer.encode_level(audio / audio.abs().max(), 2)[:, :8192]
    frames = model.hidden(codes, [3], expected)[3]
    extractor = JukeboxFeatures(tokenizer, model, layers=(3,))
    assert torch.equal(extractor.get_buffer("label")[None], expected)
    found = extractor.extract(audio)["layer_3"]
    assert (found.shape[1], frames.shape) == (25 * 44_100 // 128, (1, 8192, 16))
    assert torch.allclose(found[:, :8192], frames, atol=1e-4)
    assert extractor.card.name == "jukebox-5b"
    assert extractor.spec.frame_rate("layer_3") == pytest.approx(344.53, abs=0.01)


def test_frames_are_placed_at_the_last_code_they_have_read():
    extractor, audio = features(), music(0.6)
    assert extractor.spec.grid("layer_4").first_centre == pytest.approx(-HOP / 2 / RATE)
    assert features(pool=4).spec.grid("layer_4").first_centre == pytest.approx(HOP / RATE)
    codes = extractor.encode(audio)
    label = extractor.get_buffer("label")[None]
    other = codes.clone()
    other[:, 20] = (other[:, 20] + 1) % 16
    change = (
        extractor.prior.hidden(codes, [4], label)[4] - extractor.prior.hidden(other, [4], label)[4]
    ).abs().amax(dim=2)  # fmt: skip
    assert change[0].nonzero().min() == 21


@pytest.mark.parametrize("codes", [1, 7, 8, 9, 47])
@pytest.mark.parametrize("config", [TOP, SUNG], ids=lambda config: config.name)
def test_what_pads_a_short_clip_changes_nothing(config, codes):
    model = prior(config)
    drawn = torch.randint(16, (1, 48), generator=torch.Generator().manual_seed(codes))
    label = features(config).get_buffer("label")[None]
    short = model.hidden(drawn[:, :codes], [6], label)[6]
    assert torch.allclose(short, model.hidden(drawn, [6], label)[6][:, :codes], atol=1e-5)


def test_a_batch_equals_its_items():
    extractor, audio = features(pool=2), music(1.5, batch=3)
    alone = torch.cat([extractor.extract(item[None])["layer_4"] for item in audio])
    assert torch.allclose(extractor.extract(audio)["layer_4"], alone, atol=1e-5)


def test_windows_are_those_of_the_prior():
    """Each frame comes from the first window that reaches it."""
    extractor, audio = features(), music(1.6)
    codes, label = extractor.encode(audio), extractor.get_buffer("label")[None]
    model, found = prior(), extractor.extract(audio)["layer_4"]
    first = model.hidden(codes[:, :48], [4], label)[4]
    second = model.hidden(codes[:, 36:84], [4], label)[4]
    last = model.hidden(codes[:, 52:], [4], label)[4]
    assert codes.shape[1] == 100
    stitched = torch.cat([first, second[:, 12:], last[:, 84 - 52 :]], dim=1)
    assert torch.allclose(found, stitched, atol=1e-5)


@pytest.mark.parametrize("codes", [1, 47, 48, 49, 96, 200])
@pytest.mark.parametrize("pool", [1, 5])
def test_windows_tile_and_keep_a_quarter_of_context(codes, pool):
    windows = module._windows(codes * pool, 48, pool)
    assert [one.keep_start for one in windows] == [0, *(one.keep_end for one in windows)][:-1]
    assert windows[-1].keep_end == codes * pool
    assert all(one.keep_start - one.start >= 12 // pool * pool for one in windows[1:])
    assert all(one.end - one.start <= 48 and one.start % pool == 0 for one in windows)


def test_several_layers_in_one_pass_are_those_of_one_each():
    audio = music(1.5)
    together = features(layers=(0, 2, 6)).extract(audio)
    for layer in (0, 2, 6):
        alone = features(layers=(layer,)).extract(audio)[f"layer_{layer}"]
        assert torch.allclose(together[f"layer_{layer}"], alone, atol=1e-6)


def test_a_window_may_be_one_frame():
    """As in jukemir, whose feature is the mean over a window."""
    audio = music(48 * HOP / RATE)
    plain, pooled = features().extract(audio), features(pool=48).extract(audio)
    assert torch.allclose(pooled["layer_4"], plain["layer_4"].mean(dim=1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_pooled_while_running_is_the_mean_of_frames(seconds):
    audio = music(seconds)
    audio = audio[:, : audio.shape[1] // (4 * HOP) * 4 * HOP]
    plain, pooled = features(layers=(2, 4)).extract(audio), features(layers=(2, 4), pool=4).extract(audio)
    for name, frames in plain.items():
        assert torch.allclose(pooled[name], frames.unflatten(1, (-1, 4)).mean(dim=2), atol=1e-5)


def test_pooling_holds_no_layer_in_full():
    extractor, held = features(layers=(1, 2, 3, 4, 5, 6), pool=4), []
    hidden = extractor.prior.hidden

    def spy(*arguments, **options):
        held.append(hidden(*arguments, **options))
        return held[-1]

    extractor.prior.hidden = spy
    extractor.extract(music(1.5))
    storages = [stream.untyped_storage().nbytes() for window in held for stream in window.values()]
    assert len(storages) == 18
    assert max(storages) == 12 * 16 * 4  # frames, channels, bytes


def test_peak_decides_nothing_unless_asked():
    audio = music(0.8)
    loud, soft = (features().extract(scale * audio)["layer_4"] for scale in (1.0, 0.25))
    assert torch.equal(loud, soft)
    loud, soft = (features(normalise=False).extract(scale * audio)["layer_4"] for scale in (1.0, 0.25))
    assert not torch.equal(loud, soft)


def test_half_precision_is_near():
    audio = music(1.0)
    full, half = (features(dtype=dtype).extract(audio)["layer_4"] for dtype in ("float32", "bfloat16"))
    assert (full - half).abs().mean() / full.abs().mean() < 0.05
    assert features(dtype="bfloat16").prior.music.transformer.blocks[0].mlp_in.weight.dtype == torch.bfloat16


def test_only_what_is_needed_stays():
    extractor = features(layers=(2,))
    assert len(extractor.prior.music.transformer.blocks) == 2
    kept = {name.split(".")[1] for name in extractor.state_dict() if "vqvae" in name}
    assert kept == {"encoders", "codebooks", "bandwidth_l2", "bandwidth_spectral"}
    levels = {name.split(".")[2] for name in extractor.state_dict() if "vqvae.encoders" in name}
    assert levels == {"2"}
    parameters = sum(tensor.numel() for tensor in extractor.prior.parameters())
    assert parameters < sum(tensor.numel() for tensor in prior().parameters())


def test_random_control_reads_the_same_codes():
    extractor, audio = features(), music(1.0)
    control = randomised(extractor)
    assert torch.equal(control.encode(audio), extractor.encode(audio))
    assert not torch.allclose(control.extract(audio)["layer_4"], extractor.extract(audio)["layer_4"], atol=0.1)
    assert control.card.name == "jukebox-top@random"


def test_fingerprint_follows_arguments_and_weights():
    assert features().fingerprint() == features().fingerprint()
    assert features(pool=2).fingerprint() != features().fingerprint()
    assert features(song_seconds=70.0).fingerprint() != features().fingerprint()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ()}, "different layers from 0 to 6"),
        ({"layers": (7,)}, "different layers from 0 to 6"),
        ({"layers": (1, 1)}, "different layers"),
        ({"pool": 0}, "expected pool"),
        ({"pool": 49}, "fit into a window of 48"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"config": MIDDLE, "layers": (1,)}, "expected a top prior"),
        ({"config": replace(TOP, hop_length=64)}, "from one checkpoint"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        features(**arguments)


def test_a_song_that_the_prior_cannot_know_is_refused():
    with pytest.raises(ValueError, match=r"0.2 s to less than 600 s, got one of 700"):
        features(song_seconds=700.0)


class Loaders:
    """What foundation/jukebox/checkpoint.py gives, and what it was asked for."""

    def __init__(self):
        self.asked = []

    def load_vqvae(self, source):
        self.asked.append(("vqvae", source))
        return vqvae(sample_rate=44_100, codebook_size=64)

    def load_prior(self, preset, source, depth=None, dtype=torch.float32, cache=None):
        self.asked.append((preset, source, depth, dtype, cache))
        return prior(replace(prior_preset(preset), depth=depth)).to(dtype)


@pytest.fixture
def loaders(monkeypatch):
    from types import ModuleType

    found = Loaders()
    fake = ModuleType("sonido_bench.foundation.jukebox.checkpoint")
    fake.load_vqvae, fake.load_prior = found.load_vqvae, found.load_prior
    monkeypatch.setitem(__import__("sys").modules, fake.__name__, fake)
    return found


def test_weights_are_loaded_no_deeper_than_needed(loaders, tmp_path):
    arguments = {"dtype": "bfloat16", "vqvae": tmp_path / "vqvae", "cache": tmp_path / "cache"}
    extractor = JukeboxExtractor(tmp_path, "tiny", (1, 3), **arguments)
    assert loaders.asked == [
        ("tiny", tmp_path, 3, torch.bfloat16, tmp_path / "cache"), ("vqvae", tmp_path / "vqvae"),
    ]  # fmt: skip
    assert list(extractor.extract(music(0.5, rate=44_100))) == ["layer_1", "layer_3"]
    assert "checkpoint" not in extractor.configuration
    assert extractor.configuration["preset"] == "tiny"
    assert len(extractor.fingerprint()) == 64


def test_tokenizer_control_loads_no_prior(loaders, tmp_path):
    control = JukeboxExtractor(tmp_path, source="tokens")
    assert loaders.asked == [("vqvae", tmp_path)]
    assert control.card.name == "jukebox-5b@tokenizer"
    assert control.extract(music(0.2, rate=44_100))["codes"].shape[2] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "upsampler_1"}, "is an upsampler"),
        ({"preset": "6b"}, "unknown Jukebox prior"),
        ({"layers": (73,)}, "layers from 0 to 72"),
        ({"layers": ()}, "layers from 0 to 72"),
        ({"source": "latents"}, "unknown source"),
        ({"dtype": "int8"}, "unknown dtype"),
    ],
)
def test_nothing_is_loaded_for_what_cannot_be(loaders, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        JukeboxExtractor(tmp_path, **arguments)
    assert loaders.asked == []


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A model as pre-training leaves it."""
    path = tmp_path_factory.mktemp("extractor") / "model"
    save_checkpoint(path, jukebox(), CARD)
    return path


def test_a_model_of_ones_own_knows_its_layers_and_song(own):
    extractor, audio = JukeboxExtractor(own), music(0.6)
    assert (extractor.card.name, extractor.card.weights_licence) == (CARD.name, CARD.licence)
    resolved = {name: extractor.configuration[name] for name in ("preset", "layers", "song_seconds")}
    assert resolved == {"preset": None, "layers": [2], "song_seconds": 1.0}
    parts = load_checkpoint(own)
    expected = JukeboxFeatures(parts.vqvae, parts.priors[-1], (2,), song_seconds=1.0)
    assert torch.equal(extractor.extract(audio)["layer_2"], expected.extract(audio)["layer_2"])
    assert len(extractor.prior.music.transformer.blocks) == 2


def test_other_layers_and_the_control_of_a_model_of_ones_own(own):
    extractor = JukeboxExtractor(own, layers=(0, 5), pool=2, song_seconds=2.0, dtype="bfloat16")
    assert set(extractor.spec.streams) == {"layer_0", "layer_5"}
    assert extractor.fingerprint() != JukeboxExtractor(own).fingerprint()
    control = JukeboxExtractor(own, source="tokens")
    assert (control.card.name, control.prior) == ("tiny@tokenizer", None)
    assert control.extract(music(0.3))["codes"].shape[2] == 6


def test_an_arm_of_a_benchmark_names_the_folder_and_the_layers(own):
    path = "sonido_bench.foundation.jukebox.extractor.JukeboxExtractor"
    arm = ArmConfig("own-jukebox", ClassConfig(path, {"checkpoint": str(own), "layers": [3]}))
    assert set(arm_extractor(arm).spec.streams) == {"layer_3"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "5b"}, "leave out preset, vqvae and cache"),
        ({"cache": Path("cache")}, "leave out preset, vqvae and cache"),
        ({"layers": (7,)}, "layers from 0 to 6"),
        ({"layers": ()}, "layers from 0 to 6"),
    ],
)
def test_what_a_model_of_ones_own_does_not_have_is_refused(own, arguments, message):
    with pytest.raises(ConfigError, match=message):
        JukeboxExtractor(own, **arguments)


def test_openais_folder_tells_where_its_files_lie(loaders, tmp_path):
    (tmp_path / "1b_lyrics").mkdir()
    names = ("prior_level_0", "prior_level_1", "prior_level_2", "vqvae")
    for file in (tmp_path / "1b_lyrics" / f"{name}.pth.tar" for name in names):
        file.touch()
    extractor = JukeboxExtractor(tmp_path / "1b_lyrics", source="tokens")
    assert loaders.asked == [("vqvae", tmp_path / "1b_lyrics" / "vqvae.pth.tar")]
    assert extractor.card.name == "jukebox-1b_lyrics@tokenizer"
