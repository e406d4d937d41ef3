import os
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.jukebox.checkpoint import load_prior, load_vqvae
from sonido_bench.foundation.jukebox.keys import prior_weights, to_theirs, vqvae_weights
from tests.foundation.jukebox.tiny_files import CONFIGS, hugging_face, official, prior, same
from tests.foundation.jukebox.tiny_vqvae import CONFIG, audio, started

TINY = ["tiny", "tiny_lyrics", "tiny_upsampler_1", "tiny_separate"]


def given(config):
    """Codes, labels and codes above of a random window."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(config.codebook_size, (2, config.context), generator=generator)
    above = torch.randint(config.codebook_size, (2, config.context // 4), generator=generator)
    labels = torch.zeros(2, config.label_length, dtype=torch.int64)
    labels[:, 0], labels[:, 2] = 44_100, config.sample_length
    return codes, labels, above if config.upsampler else None


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_an_official_file_is_read_bit_for_bit(tmp_path, name, zipped):
    path = official(tmp_path / "prior.pth.tar", name, zipped=zipped)
    model = load_prior(CONFIGS[name], path)
    assert same(model, prior(name))
    assert not model.training


@pytest.mark.parametrize(
    "form",
    ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json"],
)
def test_a_folder_of_hugging_face_has_all_models(tmp_path, form):
    names = ["tiny_lyrics", "tiny_upsampler_1", "tiny_upsampler_0"]
    folder = hugging_face(tmp_path / "jukebox", names, form)
    for name in names:
        assert same(load_prior(name, folder), prior(name))
    assert torch.equal(load_vqvae(folder, CONFIG).codes(1), started().codes(1))


def test_a_safetensors_file_of_either_layout_is_read(tmp_path):
    for layout, prefix in (("official", ""), ("hugging_face", "priors.0.")):
        state = to_theirs(prior_weights(CONFIGS["tiny"], layout), prior("tiny").state_dict())
        save_file({prefix + key: value for key, value in state.items()}, tmp_path / "model.safetensors")
        assert same(load_prior("tiny", str(tmp_path / "model.safetensors")), prior("tiny"))


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_the_first_blocks_alone_give_the_same_activations(tmp_path, name):
    config, path = CONFIGS[name], official(tmp_path / "prior.pth.tar", name)
    codes, labels, above = given(config)
    expected = prior(name).hidden(codes, [0, 1, 2], labels, above)
    model = load_prior(config, path, depth=2)
    assert len(model.music.transformer.blocks) == 2
    found = model.hidden(codes, [0, 1, 2], labels, above)
    assert all(torch.equal(found[layer], expected[layer]) for layer in (0, 1, 2))


def test_weights_stored_in_half_precision(tmp_path):
    path = official(tmp_path / "prior.pth.tar", "tiny", half=True)
    expected = prior("tiny")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = load_prior("tiny", path, dtype=dtype)
        matrices = {
            p.dtype for name, p in model.named_parameters() if name.endswith(("project_in.weight", "mlp_in.weight"))
        }
        assert matrices == {dtype}
        matrix, stored = (
            model.music.transformer.blocks[0].mlp_in.weight,
            expected.music.transformer.blocks[0].mlp_in.weight,
        )
        assert torch.equal(matrix, stored.half().to(dtype))
        assert torch.equal(model.music.positions, expected.music.positions)


@pytest.mark.parametrize("form", ["official", "hugging_face"])
def test_autoencoders_give_the_same_tokens_and_can_go_on_training(tmp_path, form):
    source = tmp_path / "vqvae.pth.tar"
    if form == "official":
        state = to_theirs(vqvae_weights(CONFIG, "official"), started().state_dict())
        torch.save({"model": state, "step": 1}, source, _use_new_zipfile_serialization=False)
    else:
        source = hugging_face(tmp_path / "jukebox", [])
    model, expected = load_vqvae(source, CONFIG), started().eval()
    assert not model.training
    assert all(map(torch.equal, model.encode(audio(2)), expected.encode(audio(2))))
    assert all(map(torch.equal, model.reconstruct(audio(2)), expected.reconstruct(audio(2))))
    for book in model.codebooks:
        assert bool(book.initialised)
        assert torch.equal(book.sums, book.codes)
        assert torch.equal(book.counts, torch.ones_like(book.counts))
    before = model.codes(0).clone()
    model.train()(audio(2)).loss.backward()
    assert (model.codes(0) - before).abs().max() > 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_loading_draws_no_random_numbers(tmp_path):
    path = official(tmp_path / "prior.pth.tar", "tiny")
    before = torch.random.get_rng_state()
    load_prior("tiny", path)
    assert torch.equal(torch.random.get_rng_state(), before)


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_hostile_file_runs_nothing(tmp_path):
    victim = tmp_path / "victim"

    def change(state):
        state["x"] = Trap(victim)

    for zipped in (False, True):
        path = official(tmp_path / "prior.pth.tar", "tiny", zipped=zipped, change=change)
        with pytest.raises(DataError, match="could run code, which is never done"):
            load_prior("tiny", path)
    folder = hugging_face(tmp_path / "jukebox", ["tiny"], "pytorch_model.bin")
    torch.save({"priors.0.x": Trap(victim)}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="could run code"):
        load_prior("tiny", folder)
    (tmp_path / "plain.pth.tar").write_bytes(pickle.dumps(Trap(victim)) + bytes(1_000_000))
    with pytest.raises(DataError, match="found a truncated"):
        load_prior("tiny", tmp_path / "plain.pth.tar")
    assert not victim.exists()


def put(key, value):
    def change(state):
        state[key].view(-1)[-1] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("prior.transformer._attn_mods.0.mlp.c_fc.w", torch.nan), "tensor prior.*c_fc.w holds NaN, infinity"),
        (put("prior.pos_emb.pos_emb", -torch.inf), "tensor prior.pos_emb.pos_emb holds NaN, infinity"),
        (lambda state: state.pop("prior.x_out.weight"), r"1 of \d+ tensors missing: prior.x_out.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "1 tensors not of this model: extra"),
        (
            lambda state: state.update({"prior.pos_emb.pos_emb": torch.ones(65, 32)}),
            r"of another shape: prior.pos_emb.pos_emb \(65, 32\) instead of \(64, 32\)",
        ),
        (
            lambda state: state.update({"prior.pos_emb.pos_emb": torch.ones(64, 32, dtype=torch.int64)}),
            "no real numbers",
        ),
    ],
)
def test_wrong_contents(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load_prior("tiny", official(tmp_path / "prior.pth.tar", "tiny", change=change))


def test_weights_that_are_never_read_may_be_anything(tmp_path):
    path = official(tmp_path / "x.pth.tar", "tiny", change=put("prior.transformer._attn_mods.5.mlp.c_fc.w", torch.nan))
    load_prior("tiny", path, depth=5)
    with pytest.raises(DataError, match="NaN"):
        load_prior("tiny", path, depth=6)


def test_tied_weights_must_be_and_need_not_be_stored_twice(tmp_path):
    path = official(tmp_path / "1.pth.tar", "tiny_lyrics", change=lambda state: state.pop("prior.x_out.weight"))
    assert same(load_prior("tiny_lyrics", path), prior("tiny_lyrics"))

    def untie(state):
        state["prior.x_out.weight"] = state["prior.x_out.weight"] + 1

    path = official(tmp_path / "2.pth.tar", "tiny_lyrics", change=untie)
    with pytest.raises(DataError, match=r"prior.x_out.weight is not the input embedding, as it is in tiny_lyrics"):
        load_prior("tiny_lyrics", path)


def test_another_models_file_is_recognised(tmp_path):
    path = official(tmp_path / "prior.pth.tar", "tiny_lyrics")
    with pytest.raises(
        DataError, match=r"is not tiny: .*tensors.*\. It is tiny_lyrics; ask for that, or give the file"
    ):
        load_prior("tiny", path)
    folder = hugging_face(tmp_path / "jukebox", ["tiny_lyrics"])
    with pytest.raises(DataError, match=r"It is tiny_lyrics; ask"):
        load_prior("tiny", folder)
    with pytest.raises(DataError, match=r"\d+ of \d+ tensors missing"):
        load_prior("tiny_upsampler_0", folder)
    upsampler = official(tmp_path / "prior_level_1.pth.tar", "tiny_upsampler_1")
    load_prior("tiny_upsampler_1", upsampler)
    with pytest.raises(DataError, match="expected the prior of level 0, by its name it is another's"):
        load_prior("tiny_upsampler_0", upsampler)
    with pytest.raises(DataError, match="is not vqvae: "):
        load_vqvae(path, CONFIG)


def test_a_foreign_tensor_in_a_folder_is_told(tmp_path):
    folder = hugging_face(tmp_path / "jukebox", ["tiny"], "pytorch_model.bin")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"lm_head": torch.ones(1)}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="not of this model: lm_head"):
        load_prior("tiny", folder)


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_files(tmp_path, zipped):
    whole = official(tmp_path / "prior.pth.tar", "tiny", zipped=zipped)
    size = whole.stat().st_size
    for length, message in (
        (0, "found 0: a trunc"),
        (1000, "found 1,000: a trunc"),
        (size - 9, "found a truncated file|found a truncated or"),
    ):
        os.truncate(official(whole, "tiny", zipped=zipped), length)
        with pytest.raises(DataError, match=message):
            load_prior("tiny", whole)
    folder = hugging_face(tmp_path / "jukebox", ["tiny"])
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 8)
    with pytest.raises(DataError, match="expected safetensors, found a truncated"):
        load_prior("tiny", folder)


def test_what_does_not_fit_half_precision(tmp_path):
    path = official(tmp_path / "prior.pth.tar", "tiny", change=put("prior.transformer._attn_mods.1.mlp.c_fc.w", 1e5))
    load_prior("tiny", path, dtype=torch.bfloat16)
    with pytest.raises(DataError, match=r"blocks.1.mlp_in.weight is beyond the range of float16; ask for bfloat16"):
        load_prior("tiny", path, dtype=torch.float16)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("5b", "5b/prior_level_2.pth.tar"),
        ("5b_lyrics", "5b_lyrics/prior_level_2.pth.tar"),
        ("1b_lyrics", "1b_lyrics/prior_level_2.pth.tar"),
        ("upsampler_1", "5b/prior_level_1.pth.tar"),
        ("upsampler_0", "5b/prior_level_0.pth.tar"),
        ("vqvae", "5b/vqvae.pth.tar"),
    ],
)
def test_a_missing_file_is_told_with_where_to_get_it_and_its_licence(tmp_path, name, file):
    path = tmp_path / "missing.pth.tar"
    with pytest.raises(DataError) as caught:
        load_vqvae(path) if name == "vqvae" else load_prior(name, path)
    message = str(caught.value)
    assert str(path) in message
    assert f"https://openaipublic.azureedge.net/jukebox/models/{file}" in message
    assert "Noncommercial Use License" in message
    assert ("on Hugging Face" in message) == (name != "5b")
    assert "\n" not in message


def test_a_download_of_published_weights_that_stopped_early(tmp_path):
    path = tmp_path / "prior_level_2.pth.tar"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"expected at least 10,120,905,600 bytes for 5b, found 0: .*azureedge"):
        load_prior("5b", path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected a file, or a folder with model.safetensors or pytorch_model.bin"),
        ({"model.safetensors.index.json": "{}"}, "expected a weight_map"),
        ({"model.safetensors.index.json": "[" * 99_999}, "expected a weight_map"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "../x.safetensors"}}'}, "in the same folder"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "/etc/passwd"}}'}, "in the same folder"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "x.py"}}'}, "in the same folder"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": 3}}'}, "expected a weight_map"),
        ({"pytorch_model.bin.index.json": '{"weight_map": {"a": "x.bin"}}'}, r"1 of 1 parts are missing \(x.bin\)"),
        ({"model.safetensors": "text"}, "expected safetensors, found a truncated"),
    ],
)
def test_wrong_folders(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_prior("tiny", tmp_path)


def test_wrong_arguments(tmp_path):
    path = official(tmp_path / "prior.pth.tar", "tiny")
    for depth in (0, 7, -1):
        with pytest.raises(ConfigError, match=f"has 6 blocks, depth {depth} is not 1 to 6"):
            load_prior("tiny", path, depth)
    with pytest.raises(ConfigError, match=r"got torch\.int8"):
        load_prior("tiny", path, dtype=torch.int8)
    with pytest.raises(ConfigError, match="unknown Jukebox prior"):
        load_prior("6b", path)
    with pytest.raises(ConfigError, match="is a variant"):
        load_vqvae(path, replace(CONFIG, hierarchical=True))
