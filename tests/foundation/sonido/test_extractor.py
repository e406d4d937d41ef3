from itertools import pairwise

import pytest
import torch

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.features.check import check_extractor
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.controls import randomised
from sonido_bench.foundation.sonido import extractor as module
from sonido_bench.foundation.sonido.extractor import SonidoExtractor, SonidoTiny, SonidoTinyTokenizer
from tests.foundation.sonido.tiny_model import CARD, HOP, RATE, music, prior_config, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "sonido-tiny"
    save_checkpoint(path, tiny_model(), CARD)
    return path


@pytest.mark.parametrize("source", ["prior", "tokens", "latents"])
def test_keeps_the_contract(folder, source):
    extractor = SonidoExtractor(folder, source=source)
    assert [finding for finding in check_extractor(extractor) if not finding.passed] == []


def test_streams_are_named_and_placed_by_level_and_layer(folder):
    spec = SonidoExtractor(folder, layers=(0, 3)).spec
    assert {name: (s.dim, s.hop_length) for name, s in spec.streams.items()} == {
        "top_0": (24, HOP), "top_3": (24, HOP), "mid_0": (20, HOP // 2), "mid_3": (20, HOP // 2),
    }  # fmt: skip
    assert spec.grid("mid_3").first_centre == pytest.approx(HOP / 4 / RATE)
    codes = SonidoExtractor(folder, levels=("bottom", "top"), source="tokens").spec
    assert {name: (s.dim, s.hop_length) for name, s in codes.streams.items()} == {
        "top": (8, HOP),
        "bottom": (8, HOP // 4),
    }


def test_features_are_the_activations_of_the_audios_own_tokens(folder):
    extractor, model = SonidoExtractor(folder), tiny_model()
    audio = music(0.7)
    found = extractor.extract(audio)
    tokens = extractor.model.encode(audio)
    for level, above in (("top", None), ("mid", tokens["top"])):
        expected = extractor.model.prior(level).hidden(tokens[level], [2], above=above)[2]
        assert torch.allclose(found[level], expected, atol=1e-5)
    assert model.config == extractor.model.config


def test_a_batch_equals_its_items(folder):
    extractor, audio = SonidoExtractor(folder), music(3.0, batch=3)
    together = extractor.extract(audio)
    for name, stream in together.items():
        alone = torch.cat([extractor.extract(item[None])[name] for item in audio])
        assert torch.allclose(stream, alone, atol=1e-5)


def test_what_follows_changes_no_frame_of_a_causal_model(folder):
    """Windows of longer audio give what the shorter audio gives, where the codes do not reach."""
    extractor, audio = SonidoExtractor(folder), music(6.0)
    whole, part = extractor.extract(audio), extractor.extract(audio[:, : 128 * HOP])
    reach = max(extractor.model.stage_one.receptive_field.values())
    for name, stream in part.items():
        known = stream.shape[1] - reach // extractor.spec.streams[name].hop_length - 1
        # the last window of the shorter audio is moved back, to whole length
        same = min(known, 48 + 36)
        assert torch.allclose(stream[:, :same], whole[name][:, :same], atol=1e-4)


@pytest.mark.parametrize("frames", [1, 47, 48, 49, 96, 200])
@pytest.mark.parametrize("ratio", [1, 2])
def test_windows_of_a_causal_model_keep_a_quarter_of_context(frames, ratio):
    windows = module._windows(prior_config(), frames * ratio, ratio)
    assert [w.keep_start for w in windows] == [0, *(w.keep_end for w in windows)][:-1]
    assert windows[-1].keep_end == frames * ratio
    assert all(window.keep_start - window.start >= 12 // ratio * ratio for window in windows[1:])
    assert all(window.end - window.start <= 48 and window.start % ratio == 0 for window in windows)


def test_windows_of_a_masked_model_are_cut_in_the_middle():
    windows = module._windows(prior_config(objective="masked", patterns=("bidirectional",)), 100, 1)
    assert all(left.keep_end == (left.end + right.start) // 2 for left, right in pairwise(windows))


def test_pooled_streams_are_averages_on_the_coarsest_grid(folder):
    audio = music(2.0)
    plain, pooled = SonidoExtractor(folder).extract(audio), SonidoExtractor(folder, pool=True)
    assert pooled.spec.streams["mid"] == pooled.spec.streams["top"].__class__(20, HOP, HOP / 2 / RATE)
    found = pooled.extract(audio)
    assert torch.equal(found["top"], plain["top"])
    assert torch.allclose(found["mid"], (plain["mid"][:, ::2] + plain["mid"][:, 1::2]) / 2, atol=1e-6)


def test_only_what_is_asked_for_is_run(folder):
    extractor = SonidoExtractor(folder, levels=("top",), layers=(1,))
    assert list(extractor.model.priors) == ["top"]
    run = []
    for index, block in enumerate(extractor.model.prior("top").transformer.blocks, start=1):
        block.register_forward_hook(lambda *_, index=index: run.append(index))
    extractor.extract(music(1.0))
    assert run == [1]


def test_transformers_see_one_window_at_a_time(folder, monkeypatch):
    extractor = SonidoExtractor(folder)
    seen = []
    for level in extractor.levels:
        prior = extractor.model.prior(level)
        hidden = prior.hidden
        monkeypatch.setattr(
            prior,
            "hidden",
            lambda tokens, *rest, hidden=hidden, **more: seen.append(tokens.shape[1]) or hidden(tokens, *rest, **more),
        )
    extractor.extract(music(12.0))
    assert len(seen) > 10
    assert max(seen) == 48


def test_fingerprint_follows_weights_and_arguments_and_not_the_place(folder, tmp_path):
    save_checkpoint(tmp_path / "elsewhere", tiny_model(), CARD)
    first = SonidoExtractor(folder).fingerprint()
    assert SonidoExtractor(tmp_path / "elsewhere").fingerprint() == first
    assert SonidoExtractor(folder, layers=(1,)).fingerprint() != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": (4,)}, "from 0 to 3"),
        ({"layers": ()}, "different layers"),
        ({"levels": ("top", "top")}, "levels among top, mid"),
        ({"levels": ("bottom",)}, "levels among top, mid, got"),
    ],
)
def test_what_the_model_does_not_have_is_refused(folder, arguments, message):
    with pytest.raises(ConfigError, match=message):
        SonidoExtractor(folder, **arguments)


def test_random_control_reads_the_same_tokens(folder):
    extractor = SonidoExtractor(folder)
    control, audio = randomised(extractor), music(2.0)
    expected = extractor.model.encode(audio)
    assert all(torch.equal(tokens, expected[level]) for level, tokens in control.model.encode(audio).items())
    own, drawn = extractor.extract(audio), control.extract(audio)
    for stream in own:
        assert not torch.allclose(own[stream], drawn[stream], atol=0.1)
        assert drawn[stream].std(dim=1).mean() > 0.01  # it does follow the audio


def test_shipped_model_and_its_tokenizer_are_built_without_arguments(folder, monkeypatch):
    monkeypatch.setattr(module, "shipped_folder", lambda name: folder.parent / name)
    assert SonidoTiny().spec.dims == {"top": 24, "mid": 20}
    tokenizer = SonidoTinyTokenizer()
    assert tokenizer.card.name == "sonido-test@tokenizer"
    assert tokenizer.spec.dims == {"top": 8, "mid": 8}
    monkeypatch.setattr(module, "shipped_folder", lambda name: folder.parent / "absent")
    with pytest.raises(DataError, match="absent: expected"):
        SonidoTiny()
