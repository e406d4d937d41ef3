import copy
import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from sonido_bench.features.check import check_extractor
from sonido_bench.features.extractor import Extractor
from sonido_bench.features.spec import ExtractorCard, FeatureSpec, StreamSpec

CARD = ExtractorCard("toy", "For tests.", "Apache-2.0", "none", "None.")


class Toy(Extractor):
    """Two streams of different hops, with a dropout that must never act; sees 33 samples to either side."""

    card = CARD

    def __init__(self, weights_seed: int = 0, folder: Path | None = None) -> None:
        super().__init__()
        torch.manual_seed(weights_seed)
        self.conv = nn.Conv1d(1, 6, 67, padding=33)
        self.dropout = nn.Dropout(0.5)
        self.spec = FeatureSpec(1000, {"fast": StreamSpec(6, 10), "slow": StreamSpec(6, 25)})
        self.window_seconds = 2.0
        self.overlap_seconds = 0.2

    def forward(self, audio):
        hidden = self.dropout(self.conv(audio[:, None])).transpose(1, 2)
        return {"fast": hidden[:, ::10], "slow": hidden[:, ::25]}


@pytest.fixture
def audio():
    return torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("samples", [1, 24, 25, 999, 2000, 2001, 5432, 9999])
def test_frames_follow_from_samples_and_windows_equal_the_whole(audio, samples):
    windowed, whole = Toy(), Toy()
    whole.window_seconds = None
    expected = whole.extract(audio[:, :samples])
    for name, stream in windowed.extract(audio[:, :samples]).items():
        hop = {"fast": 10, "slow": 25}[name]
        assert stream.shape == (3, -(-samples // hop), 6)
        assert stream.shape[1] == windowed.spec.frames(name, samples)
        assert torch.allclose(stream, expected[name], atol=1e-6)


def test_long_audio_is_run_in_windows_of_equal_length(audio, monkeypatch):
    lengths = []
    extractor = Toy()
    forward = extractor.forward
    monkeypatch.setattr(extractor, "forward", lambda x: lengths.append(x.shape[1]) or forward(x))
    extractor.extract(audio)
    assert len(lengths) > 4
    assert set(lengths) == {2000}


def test_a_batch_equals_its_items(audio):
    extractor = Toy()
    together = extractor.extract(audio)
    for index, item in enumerate(audio):
        for name, stream in extractor.extract(item[None]).items():
            assert torch.allclose(together[name][index], stream[0], atol=1e-6)


def test_short_audio_is_padded_to_what_the_model_needs():
    extractor = Toy()
    extractor.min_samples = 500
    short = torch.randn(1, 30)
    padded = torch.nn.functional.pad(short, (0, 470))
    assert torch.equal(extractor.extract(short)["fast"], extractor.extract(padded)["fast"][:, :3])


def test_is_frozen_in_every_way(audio):
    extractor = Toy()
    assert not any(module.training for module in extractor.train().modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    first, second = extractor.extract(audio), extractor.extract(audio)
    assert torch.equal(first["fast"], second["fast"])
    assert not first["fast"].requires_grad


class Task(pl.LightningModule):
    def __init__(self, extractor):
        super().__init__()
        self.extractor = extractor
        self.head = nn.Linear(6, 1)
        self.modes = []

    def training_step(self, batch, _):
        self.modes.append(any(module.training for module in self.extractor.modules()))
        return self.head(self.extractor.extract(batch)["fast"]).square().mean()

    def validation_step(self, batch, _):
        self.head(self.extractor.extract(batch)["fast"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_stays_frozen_while_lightning_trains_a_task(audio, tmp_path):
    task = Task(Toy())
    before = copy.deepcopy(task.extractor.state_dict())
    head = task.head.weight.clone()
    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(task, DataLoader(list(audio)), DataLoader(list(audio)))
    assert not any(task.modes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.extractor.state_dict().items())
    assert all(parameter.grad is None for parameter in task.extractor.parameters())
    assert not torch.equal(task.head.weight, head)


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Toy()
    assert torch.equal(torch.rand(3), expected)


def test_configuration_holds_all_arguments_but_paths():
    assert Toy().configuration == {"weights_seed": 0, "folder": None}
    assert Toy(3, folder=Path("x")).configuration == {"weights_seed": 3}


def test_fingerprint_changes_with_what_changes_the_features():
    base = Toy().fingerprint()
    assert Toy().fingerprint() == base
    assert copy.deepcopy(Toy()).fingerprint() == base
    assert len(base) == 64
    other_weights, other_window, other_arguments = Toy(), Toy(), Toy(1)
    other_weights.conv.weight[0, 0, 0] += 1
    other_window.window_seconds = 1.0
    other_arguments.load_state_dict(Toy().state_dict())
    revised = type("Toy", (Toy,), {"revision": 2, "__module__": Toy.__module__, "__qualname__": "Toy"})()
    other_class = type("Other", (Toy,), {})()
    prints = [e.fingerprint() for e in (other_weights, other_window, other_arguments, revised, other_class)]
    assert len({base, *prints}) == 6


def test_fingerprint_refuses_arguments_that_have_no_text_form():
    class Odd(Toy):
        def __init__(self, module: object = object()) -> None:
            super().__init__()

    with pytest.raises(TypeError, match="JSON"):
        Odd().fingerprint()


@pytest.mark.parametrize("shape", [(100,), (1, 2, 100), (2, 0)])
def test_audio_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(batch, samples\)"):
        Toy().extract(torch.zeros(shape))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda f: {"fast": f["fast"]}, "streams"),
        (lambda f: {**f, "fast": f["fast"][:, :-1]}, "stream fast: spec promises"),
        (lambda f: {**f, "slow": f["slow"][..., :3]}, "stream slow: spec promises"),
        (lambda f: {**f, "slow": f["slow"][0]}, "stream slow: spec promises"),
    ],
)
def test_forward_that_breaks_its_promise_is_refused(monkeypatch, broken, message):
    extractor = Toy()
    forward = extractor.forward
    monkeypatch.setattr(extractor, "forward", lambda audio: broken(forward(audio)))
    with pytest.raises(ValueError, match=message):
        extractor.extract(torch.zeros(1, 1000))


def test_spec_refuses_nonsense():
    with pytest.raises(ValueError, match="sample rate and streams"):
        FeatureSpec(0, {"a": StreamSpec(1, 1)})
    with pytest.raises(ValueError, match="sample rate and streams"):
        FeatureSpec(16000, {})
    with pytest.raises(ValueError, match="at least 1"):
        StreamSpec(0, 1)


def test_spec_gives_rates_and_grids():
    spec = FeatureSpec(1000, {"a": StreamSpec(3, 10, 0.02), "b": StreamSpec(4, 25)})
    assert spec.frame_rate("a") == 100
    assert spec.grid("a").centres(2).tolist() == pytest.approx([0.02, 0.03])
    assert spec.common_hop == 50
    assert spec.dims == {"a": 3, "b": 4}


def load_example():
    spec = importlib.util.spec_from_file_location("example_extractor", Path(__file__).parent / "example_extractor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Bands


def test_example_of_the_readme_keeps_the_contract():
    findings = check_extractor(load_example()())
    assert [finding for finding in findings if not finding.passed] == []
    assert len(findings) == 8


def failed(extractor):
    return {finding.name: finding.detail for finding in check_extractor(extractor) if not finding.passed}


def test_check_finds_nothing_wrong_with_the_toy():
    assert failed(Toy()) == {}


class Late(Toy):
    def __init__(self):
        super().__init__()
        self.spec = FeatureSpec(1000, {"fast": StreamSpec(6, 10, first_centre=0.5), "slow": StreamSpec(6, 25)})


class Awake(Toy):
    def train(self, mode=True):
        return nn.Module.train(self, mode)


class Sociable(Toy):
    def forward(self, audio):
        return super().forward(audio / (audio.abs().max() + 1e-3))


class Seam(Toy):
    def __init__(self):
        super().__init__()
        self.overlap_seconds = 0.0


class Global(Toy):
    def forward(self, audio):
        return super().forward(audio / (audio.std(dim=1, keepdim=True) + 1e-3))


class Slipping(Toy):
    def forward(self, audio):
        return {
            name: stream.roll(audio.shape[1] % 2000 // 10, dims=1) for name, stream in super().forward(audio).items()
        }


class Infinite(Toy):
    def forward(self, audio):
        return {name: stream / audio.abs().amax() for name, stream in super().forward(audio).items()}


class Deaf(Toy):
    def forward(self, audio):
        return {name: torch.ones_like(stream) for name, stream in super().forward(audio).items()}


class Trainable(Toy):
    def requires_grad_(self, requires_grad=True):
        return self


class Forgetful(Toy):
    card = replace(CARD, citation=" ")


class Restless(Toy):
    def forward(self, audio):
        return super().forward(audio + torch.rand_like(audio))


class Wrong(Toy):
    def forward(self, audio):
        return {"fast": super().forward(audio)["fast"]}


@pytest.mark.parametrize(
    ("broken", "check", "detail"),
    [
        (Late, "frames lie where spec says", r"stream fast: a click shows \+0\.(49|50)"),
        (Awake, "weights are frozen", "training mode: the extractor"),
        (Sociable, "a batch equals its items", "items see each other"),
        (Seam, "windows equal the whole", "raise overlap_seconds"),
        (Slipping, "windows equal the whole", "shifted in time"),
        (Infinite, "features are finite", "silence: expected finite"),
        (Deaf, "frames lie where spec says", "changes nothing"),
        (Trainable, "weights are frozen", "want gradients: conv.weight"),
        (Forgetful, "card is complete", "citation"),
        (Restless, "weights are frozen", "draws random numbers"),
        (Wrong, "features match spec", "raised ValueError"),
    ],
)
def test_check_names_what_is_broken(broken, check, detail):
    assert re.search(detail, failed(broken())[check])


def test_check_accepts_a_model_that_sees_the_whole_window_and_says_so():
    findings = {finding.name: finding for finding in check_extractor(Global())}
    assert findings["windows equal the whole"].passed
    assert "sees the whole window" in findings["windows equal the whole"].detail


def test_check_leaves_the_extractor_as_it_was():
    extractor = Toy()
    before = extractor.fingerprint()
    check_extractor(extractor)
    assert extractor.fingerprint() == before
    assert extractor.window_seconds == 2.0
