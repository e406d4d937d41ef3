import os
import pickle

import pytest
import torch

from sonido_bench.errors import DataError
from sonido_bench.foundation.jukebox.pickled_checkpoint import read_pickle

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Sparse invariant", "ignore:Defining")


class Write:
    """Writes a file when it is unpickled by something that runs what it finds."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


class Shell(Write):
    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class Evaluated(Write):
    def __reduce__(self):
        return (eval, (f"open({self.path!r}, 'w')",))


def state():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 7, generator=generator)
    return {"a.w": matrix.half(), "a.b": torch.randn(7, generator=generator), "c": matrix.bfloat16()}


def save(path, content, zipped=False):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_tensors_are_read_as_they_are_stored(tmp_path, zipped, wrapped):
    expected = state()
    model = {f"module.{name}": tensor for name, tensor in expected.items()}
    optimiser = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 3e-4, "betas": (0.9, 0.999)}]}
    training = {"hps": {"name": "x", "strides_t": (2, 2)}, "model": model, "opt": optimiser, "step": 7, "loss": 0.5}
    path = save(tmp_path / "file.pth.tar", training if wrapped else expected, zipped)
    found = read_pickle(path)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_older_format_is_the_one_of_openai(tmp_path):
    path = save(tmp_path / "file.pth.tar", {"model": state()})
    assert not path.read_bytes().startswith(b"PK")
    assert path.read_bytes().startswith(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))


def test_weights_alone_are_unpickled_and_zipped_ones_mapped(tmp_path, monkeypatch):
    load, options = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **options_: options.append(options_) or load(*args, **options_))
    for zipped in (False, True):
        read_pickle(save(tmp_path / "file.bin", state(), zipped))
    assert [option["weights_only"] for option in options] == [True, True]
    assert [option["mmap"] for option in options] == [False, True]


@pytest.mark.parametrize("form", ["older", "zipped", "plain"])
@pytest.mark.parametrize("trap", [Write, Shell, Evaluated])
@pytest.mark.parametrize("place", ["model", "hps"])
def test_nothing_is_run(tmp_path, form, trap, place):
    victim, path = tmp_path / "victim", tmp_path / "hostile.pth.tar"
    content = {"model": state(), "hps": {}}
    content[place]["x"] = trap(victim)
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        save(path, content, zipped=form == "zipped")
    with pytest.raises(DataError, match="found a truncated"):
        read_pickle(path)
    assert not victim.exists()
    if form == "plain":
        pickle.loads(path.read_bytes())
        assert victim.exists()  # the trap is a trap


def test_what_would_run_code_is_named(tmp_path):
    with pytest.raises(DataError, match=r"could run code, which is never done.*fetch the file again"):
        read_pickle(save(tmp_path / "x.pth.tar", {"model": state(), "y": Write(tmp_path / "victim")}))


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_files(tmp_path, zipped):
    whole = save(tmp_path / "whole.pth.tar", {"model": state()}, zipped).read_bytes()
    path = tmp_path / "part.pth.tar"
    for length in range(0, len(whole), 23):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="found an empty file" if not length else "found a truncated"):
            read_pickle(path)


def test_damaged_files_never_raise_anything_else(tmp_path):
    whole, generator = (
        save(tmp_path / "whole.pth.tar", {"model": state()}).read_bytes(),
        torch.Generator().manual_seed(0),
    )
    path, refused = tmp_path / "damaged.pth.tar", 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in torch.randint(len(whole), (3,), generator=generator).tolist():
            damaged[place] = int(torch.randint(256, (1,), generator=generator))
        path.write_bytes(damaged)
        try:
            read_pickle(path)
        except DataError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dictionary of weights, found list"),
        ({}, "expected a dictionary of weights"),
        ({"model": {"a": 3}}, "expected named tensors, found 'a': int"),
        ({"step": 3, "weights": {"a": torch.ones(1)}}, "expected named tensors, found 'step': int"),
        ({"model": {3: torch.ones(1)}}, "expected named tensors, found '3'"),
        ({"model": {"a": torch.eye(2).to_sparse()}}, "expected named tensors"),
        ({"model": {"a": torch.ones(1, device="meta")}}, "expected named tensors"),
        ({"model": {"module.a": torch.ones(1), "a": torch.ones(1)}}, "expected named tensors, found 'a'"),
    ],
)
def test_other_contents(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_pickle(save(tmp_path / "other.pth.tar", content, zipped=True))


def test_text_is_no_checkpoint(tmp_path):
    path = tmp_path / "prior_level_2.pth.tar"
    path.write_text("<html>404</html>")
    with pytest.raises(DataError, match="found a truncated"):
        read_pickle(path)
