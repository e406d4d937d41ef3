import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonido_bench.errors import DataError
from sonido_bench.features.check import check_extractor
from sonido_bench.files import sha256_file
from sonido_bench.foundation.controls import randomised
from sonido_bench.foundation.log_frequency_kmeans import LFK16, fit_lfk16

RATE, HOP = 22_050, 1024


def chords(seed: int, frames: int = 150) -> torch.Tensor:
    """Two clips of changing chords with a little noise, ``(2, samples)``."""
    generator = torch.Generator().manual_seed(seed)
    pitches = torch.randint(30, 100, (2, 10, 3), generator=generator)
    time = torch.arange(frames * HOP) / RATE
    frequencies = (440 * 2 ** ((pitches - 69) / 12)).repeat_interleave(-(-len(time) // 10), dim=1)[:, : len(time)]
    sines = torch.sin(2 * math.pi * frequencies * time[:, None]).mean(dim=2)
    return 0.5 * sines + 0.01 * torch.randn(2, len(time), generator=generator)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lfk16")
    fit_lfk16(path, [chords(0), chords(1)], torch.Generator().manual_seed(0), patches=400)
    return path


@pytest.fixture(scope="module")
def extractor(folder) -> LFK16:
    return LFK16(folder)


def test_it_keeps_the_contract(extractor):
    assert [finding for finding in check_extractor(extractor) if not finding.passed] == []


def test_a_frame_is_the_nearest_patches_side_by_side(extractor):
    audio = chords(2, frames=12)
    spectrogram = extractor.front_end(audio)
    found = extractor.extract(audio)["codes"]
    assert found.shape == (2, 12, 768)
    for clip, frame, band in ((0, 0, 0), (0, 5, 7), (1, 11, 15)):
        patch = spectrogram[clip, 12 * band : 12 * band + 12, 4 * frame : 4 * frame + 4].flatten()
        distances = (extractor.codes[band] - patch).square().sum(dim=1)
        assert torch.equal(found[clip, frame, 48 * band : 48 * band + 48], extractor.codes[band, distances.argmin()])


def test_tokens_are_what_the_features_are_made_of(extractor):
    audio = chords(2, frames=12)
    tokens = extractor.encode(audio)
    assert tokens.shape == (2, 12, 16)
    assert 0 <= tokens.min() < tokens.max() < 256
    assert torch.equal(extractor.embed(tokens), extractor.extract(audio)["codes"])


def test_patches_learned_from_music_describe_other_music_of_the_kind_better_than_shuffled_ones(extractor):
    audio = chords(3)
    shape = (2, 150, 16, 48)

    def error(model: LFK16) -> torch.Tensor:
        spectrogram = extractor.front_end(audio).unflatten(2, (150, 4)).unflatten(1, (16, 12)).permute(0, 3, 1, 2, 4)
        return (model.embed(extractor.encode(audio)).reshape(shape) - spectrogram.reshape(shape)).square().mean()

    assert error(extractor) < 0.7 * extractor.front_end(audio).square().mean()
    assert error(extractor) < 0.5 * error(randomised(extractor))


def test_fitting_is_reproducible(folder, tmp_path):
    fit_lfk16(tmp_path, [chords(0), chords(1)], torch.Generator().manual_seed(0), patches=400)
    assert (tmp_path / "SHA256SUMS").read_text() == (folder / "SHA256SUMS").read_text()
    assert (tmp_path / "model.safetensors").stat().st_size < 500_000


def test_where_the_weights_lie_does_not_matter(folder, extractor, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert LFK16(copy).fingerprint() == extractor.fingerprint()


def test_the_shipped_weights_load():
    extractor = LFK16()
    assert extractor.card.name == "lfk16"
    assert extractor.codes.abs().max() > 1


def test_too_little_audio_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least 256"):
        fit_lfk16(tmp_path, [chords(0, frames=100)], torch.Generator())
    assert not any(tmp_path.iterdir())


def _truncated(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:1000])


def _hashed_again(weights: Path) -> None:
    (weights.parent / "SHA256SUMS").write_text(f"{sha256_file(weights)}  {weights.name}\n")


def _truncated_with_its_own_sum(weights: Path) -> None:
    _truncated(weights)
    _hashed_again(weights)


def _other_shape(weights: Path) -> None:
    state = load_file(weights)
    save_file({**state, "codes": state["codes"][:, :128].contiguous()}, weights)
    _hashed_again(weights)


def _not_finite(weights: Path) -> None:
    state = load_file(weights)
    save_file({**state, "codes": torch.full_like(state["codes"], torch.nan)}, weights)
    _hashed_again(weights)


def _endless(weights: Path) -> None:
    with weights.open("r+b") as file:
        file.truncate(2**40)  # sparse: takes no space


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_truncated, "expected SHA-256"),
        (_truncated_with_its_own_sum, "fetch them again"),
        (_other_shape, "expected the tensors"),
        (_not_finite, "finite"),
        (_endless, "at most"),
        (Path.unlink, "expected model.safetensors and SHA256SUMS"),
    ],
)
def test_a_broken_checkpoint_is_refused(folder, tmp_path, harm, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    harm(copy / "model.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        LFK16(copy)
    assert "\n" not in str(caught.value)
