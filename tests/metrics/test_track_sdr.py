"""Scores of tracks in parts against those of whole tracks."""

import itertools

import numpy as np
import pytest

from sonido_bench.metrics.separation import csdr, usdr
from sonido_bench.metrics.track_sdr import Energies

RATE = 100


def pair(samples, seed=0, sources=3):
    rng = np.random.default_rng(seed)
    references = rng.standard_normal((sources, 2, samples)).astype(np.float32)
    return references, references + rng.uniform(0.1, 1, (sources, 1, 1)) * rng.standard_normal(references.shape)


def measured(references, estimates, cuts=()):
    edges = [0, *cuts, references.shape[-1]]
    parts = [(references[..., a:b], estimates[..., a:b]) for a, b in itertools.pairwise(edges)]
    return Energies.join([Energies.measure(*part, RATE) for part in parts])


@pytest.mark.parametrize("seed", range(20))
def test_parts_score_as_the_whole_track(seed):
    """Silent windows and tracks on either side, odd tails, tracks below a second."""
    rng = np.random.default_rng(seed)
    samples = int(rng.integers(30, 900))
    references, estimates = pair(samples, seed)
    for audio in (references, estimates):
        for _ in range(int(rng.integers(0, 3))):
            start = int(rng.integers(0, samples)) // RATE * RATE
            audio[rng.integers(3), :, start : start + RATE] = 0
    if seed % 5 == 0:
        references[0] = 0
    if seed % 5 == 1:
        estimates[1] = 0
    cuts = [cut for cut in (2 * RATE, 5 * RATE) if cut < samples]
    energies = measured(references, estimates, cuts)
    np.testing.assert_allclose(energies.usdr(), usdr(references, estimates), rtol=0, atol=1e-9)
    expected, found = csdr(references, estimates, RATE), energies.csdr()
    scored = np.isfinite(expected)
    np.testing.assert_allclose(found[scored], expected[scored], rtol=0, atol=1e-9)
    present = np.abs(references).sum(axis=(1, 2)) > 0
    assert np.isfinite(found[present]).all()
    assert np.isnan(found[~present]).all()


def test_stems_that_never_sound_together_are_scored_by_themselves():
    references, estimates = pair(300, sources=2)
    references[0, :, 100:] = 0
    references[1, :, :100] = 0
    assert np.isnan(csdr(references, estimates, RATE)).all()
    found = measured(references, estimates).csdr()
    noise = ((references[0, :, :100] - estimates[0, :, :100]) ** 2).sum()
    assert found[0] == pytest.approx(10 * np.log10((references[0] ** 2).sum() / noise), abs=1e-4)


def test_a_rest_in_an_estimate_does_not_take_the_score_away():
    references, estimates = pair(200, sources=2)
    estimates[0, :, :100] = 0
    estimates[1, :, 100:] = 0
    assert np.isnan(csdr(references, estimates, RATE)).all()
    assert np.isfinite(measured(references, estimates).csdr()).all()


def test_a_perfect_estimate_has_a_finite_score():
    references, _ = pair(200)
    assert (measured(references, references).csdr() > 80).all()


def test_a_stem_that_sounds_in_the_tail_alone():
    references, estimates = pair(250)
    references[0, :, :200] = 0
    found = measured(references, estimates).csdr()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("shapes", [((2, 2, 5), (2, 2, 6)), ((2, 5), (2, 5)), ((2, 2, 0), (2, 2, 0))])
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="of one shape"):
        Energies.measure(*map(np.zeros, shapes), RATE)
