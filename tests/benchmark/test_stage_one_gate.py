import numpy as np
import pytest
import torch
from scipy.stats import entropy

from sonido_bench.audio import read_clip, to_mono
from sonido_bench.benchmark.gate import run_gate
from sonido_bench.benchmark.probes import labelled_clips
from sonido_bench.benchmark.stage_one_gate import STAGE_ONE, level_rows, stage_one_rows, untrained
from sonido_bench.datamodules.rendering.dataset import RenderedConfig, prepare
from sonido_bench.features.cache import FeatureCache
from sonido_bench.foundation.checkpoint import save_checkpoint
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint
from sonido_bench.foundation.sonido.extractor import SonidoExtractor
from tests.foundation.sonido.tiny_model import CARD, HOP, music, tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, tiny_model(), CARD)
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"), RenderedConfig(seed=3, seconds=1.0, train=8, validation=4, test=0))


def test_a_checkpoint_goes_through_the_gate(checkpoint, manifest, tmp_path):
    rows = stage_one_rows(checkpoint, manifest)
    names = ["logmel", "lfk16", "random", "latents", "tokens", "tokens:top", "tokens:mid"]
    assert [row.name for row in rows] == names
    assert rows[5].extractor is rows[4].extractor
    report = run_gate(rows, manifest, FeatureCache(tmp_path), STAGE_ONE, resamples=5)
    assert len(report.verdicts) == len(STAGE_ONE)
    assert set(report.scores) == set(names)


def test_the_untrained_network_keeps_nothing_but_statistics_of_its_input(checkpoint):
    trained = SonidoExtractor(checkpoint, ["top", "mid"], source="tokens")
    before = trained.fingerprint()
    audio = [music(6.0, batch=2, seed=1)]
    control = untrained(trained, audio)
    assert trained.fingerprint() == before
    assert control.fingerprint() == untrained(trained, audio).fingerprint() != before
    assert control.fingerprint() != untrained(trained, audio, seed=1).fingerprint()
    assert control.card.name == "sonido-test@untrained"
    assert not any(parameter.requires_grad for parameter in control.parameters())
    assert not control.training
    own, fresh = trained.model.stage_one.state_dict(), control.model.stage_one.state_dict()
    matrices = [name for name, tensor in own.items() if tensor.ndim > 1 and "weight" in name]
    assert matrices
    assert all(not torch.equal(own[name], fresh[name]) for name in matrices)
    standardised = control.model.stage_one.front_end(audio[0])
    assert standardised.mean().item() == pytest.approx(0, abs=0.01)
    assert standardised.std().item() == pytest.approx(1, abs=0.1)


def test_the_untrained_network_leaves_the_random_state_alone(checkpoint):
    trained = SonidoExtractor(checkpoint, ["top"], source="tokens")
    state = torch.get_rng_state()
    untrained(trained, [music(8.0, batch=2)])
    assert torch.equal(torch.get_rng_state(), state)


def test_levels_tell_the_use_of_codes_and_what_each_adds(checkpoint, manifest):
    rows = {row["level"]: row for row in level_rows(checkpoint, manifest)}
    assert [row["decoded"] for row in rows.values()] == ["top", "top+mid", "top+mid+bottom"]
    model = load_checkpoint(checkpoint).stage_one
    samples = 8000 // HOP * HOP
    clips = labelled_clips(manifest, "validation").clips
    audio = torch.stack([to_mono(read_clip(clip, 8000))[:samples] for clip in clips])
    tokens = model.encode(audio)
    columns = tokens["mid"].flatten(0, 1).T.numpy()
    perplexities = [np.exp(entropy(np.bincount(column))) for column in columns]
    assert rows["mid"]["least perplexity"] == pytest.approx(min(perplexities), rel=1e-4)
    assert rows["mid"]["perplexity"] == pytest.approx(np.mean(perplexities), rel=1e-4)
    assert rows["mid"]["used"] == pytest.approx(np.mean([len(set(column)) / 32 for column in columns]), rel=1e-4)
    decoded = model.decode({level: tokens[level] for level in ("top", "mid")})
    error = float((decoded - model.front_end(audio)).square().mean().detach())
    assert rows["mid"]["mse"] == pytest.approx(error, rel=1e-4)


def test_criteria_ask_for_rows_that_there_are():
    asked = {name for criterion in STAGE_ONE for name in (criterion.row, criterion.over)}
    assert asked == {"logmel", "lfk16", "random", "latents", "tokens", "tokens:top"}
