import pytest
import torch

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.features.check import check_extractor
from sonido_bench.features.windows import split
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.codec import extractor as module
from sonido_bench.foundation.codec.extractor import CodecExtractor, CodecTiny, CodecTinyTokenizer
from sonido_bench.foundation.controls import randomised
from tests.foundation.codec.tiny_codec import CARD, DIM, HOP, LANGUAGE_MODEL, RATE, tiny_music_codec, tones


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "codec-tiny"
    save_checkpoint(path, tiny_music_codec(), CARD)
    return path


@pytest.mark.parametrize("source", ["language_model", "codes", "latents"])
def test_keeps_the_contract(folder, source):
    extractor = CodecExtractor(folder, source=source)
    assert [finding for finding in check_extractor(extractor) if not finding.passed] == []


def test_streams_are_named_by_layer_or_source(folder):
    spec = CodecExtractor(folder, layers=(0, 3)).spec
    assert {name: (s.dim, s.hop_length) for name, s in spec.streams.items()} == {
        "layer_0": (12, HOP),
        "layer_3": (12, HOP),
    }
    assert spec.sample_rate == RATE
    assert CodecExtractor(folder, source="codes").spec.dims == {"codes": 3 * DIM}
    assert CodecExtractor(folder, source="latents").spec.dims == {"latents": DIM}
    assert CodecExtractor(folder, source="codes").spec.grid("codes").first_centre == pytest.approx(HOP / 2 / RATE)


@pytest.mark.parametrize(
    ("pattern", "delays", "average", "most"),
    [
        ("parallel", None, 0, 0),
        ("delay", None, 1, 2),
        ("delay", (0, 3, 9), 5, 9),
        ("partial_delay", None, 1 / 3, 1),
        ("flatten", None, 0, 0),
        ("partial_flatten", None, 0, 0),
        ("coarse_first", None, 0, 0),
        ("coarse_first", (0, 0, 4), 2, 4),
    ],
)
def test_frames_are_centred_where_the_codes_read_last_lie(tmp_path, pattern, delays, average, most):
    model = tiny_music_codec(pattern=pattern, delays=delays)
    assert module._frames_ahead(model.config.language_model) == (pytest.approx(average), most)
    save_checkpoint(tmp_path / "model", model, CARD)
    extractor = CodecExtractor(tmp_path / "model")
    assert extractor.spec.grid("layer_2").first_centre == pytest.approx((average + 0.5) * HOP / RATE)
    assert extractor.extract(tones(1, 1.0))["layer_2"].shape == (1, 100, 12)


def test_look_ahead_is_no_more_than_stated(folder):
    """Codes of frames beyond it change nothing, those of the last one do."""
    model = CodecExtractor(folder).model
    codes = model.encode(tones(1, 0.3))
    first = model.language_model.hidden(codes, (2,))[2]
    for frame, changes in {12: True, 13: False}.items():
        other = codes.clone()
        other[:, frame] = (other[:, frame] + 1) % 16
        second = model.language_model.hidden(other, (2,))[2]
        assert torch.equal(first[:, 10], second[:, 10]) is not changes


def test_features_are_the_activations_of_the_audios_own_codes(folder):
    extractor, audio = CodecExtractor(folder, layers=(1, 2)), tones(2, 0.39)
    codes = extractor.model.encode(audio)
    expected = extractor.model.language_model.hidden(codes, (1, 2))
    for name, stream in extractor.extract(audio).items():
        assert torch.allclose(stream, expected[int(name[-1])], atol=1e-6)


@pytest.mark.parametrize("frames", [1, 39, 40, 41, 75, 200])
def test_windows_keep_a_quarter_of_context_before_and_the_look_ahead_behind(frames):
    windows = module._windows(LANGUAGE_MODEL, frames)
    assert [w.keep_start for w in windows] == [0, *(w.keep_end for w in windows)][:-1]
    assert windows[-1].keep_end == windows[-1].end == frames
    assert all(window.keep_start - window.start >= 10 - 2 for window in windows[1:])
    assert all(window.end - window.keep_end == 2 for window in windows[:-1])
    assert [(w.start, w.end) for w in windows] == [(w.start, w.end) for w in split(frames, 40, 10, 1)]


def test_long_audio_is_stitched_of_windows(folder):
    extractor, audio = CodecExtractor(folder), tones(1, 1.2)
    codes, found = extractor.model.encode(audio), extractor.extract(audio)["layer_2"]
    for window in module._windows(LANGUAGE_MODEL, codes.shape[1]):
        expected = extractor.model.language_model.hidden(codes[:, window.start : window.end], (2,))[2]
        assert torch.allclose(
            found[:, window.keep_start : window.keep_end], expected[:, window.kept_frames(1)], atol=1e-6
        )


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP + 1, 999])
def test_audio_of_any_length(folder, samples):
    for source in ("language_model", "codes", "latents"):
        extractor = CodecExtractor(folder, source=source)
        (stream,) = extractor.extract(tones(2, 1.0)[:, :samples]).values()
        assert stream.shape[:2] == (2, -(-samples // HOP))
        assert torch.isfinite(stream).all()


def test_only_what_is_asked_for_is_kept(folder):
    assert not hasattr(CodecExtractor(folder).model.codec, "decoder")
    assert not hasattr(CodecExtractor(folder, source="codes").model, "language_model")
    assert not hasattr(CodecExtractor(folder, source="latents").model.codec, "quantizer")


def test_fingerprint_follows_weights_and_arguments_and_not_the_place(folder, tmp_path):
    save_checkpoint(tmp_path / "elsewhere", tiny_music_codec(), CARD)
    first = CodecExtractor(folder).fingerprint()
    assert CodecExtractor(tmp_path / "elsewhere").fingerprint() == first
    assert CodecExtractor(folder, layers=(1,)).fingerprint() != first


@pytest.mark.parametrize("layers", [(4,), (), (1, 1)])
def test_layers_that_the_model_does_not_have_are_refused(folder, layers):
    with pytest.raises(ConfigError, match="different layers from 0 to 3"):
        CodecExtractor(folder, layers=layers)


def test_random_control_reads_the_same_codes(folder):
    extractor = CodecExtractor(folder)
    control, audio = randomised(extractor), tones(1, 1.0)
    assert torch.equal(extractor.model.encode(audio), control.model.encode(audio))
    own, drawn = extractor.extract(audio)["layer_2"], control.extract(audio)["layer_2"]
    assert not torch.allclose(own, drawn, atol=0.1)
    assert drawn.std(dim=1).mean() > 0.01


def test_shipped_model_and_its_tokenizer_are_built_without_arguments(folder, monkeypatch):
    monkeypatch.setattr(module, "shipped_folder", lambda name: folder.parent / name)
    assert CodecTiny().spec.dims == {"layer_2": 12}
    tokenizer = CodecTinyTokenizer()
    assert tokenizer.card.name == "codec-test@tokenizer"
    assert tokenizer.spec.dims == {"codes": 3 * DIM}
    monkeypatch.setattr(module, "shipped_folder", lambda name: folder.parent / "absent")
    with pytest.raises(DataError, match="absent: expected"):
        CodecTiny()
