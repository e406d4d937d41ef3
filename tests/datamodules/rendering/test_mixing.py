import json

import numpy as np
import pytest

from sonido_bench.datamodules.rendering.mixing import PEAK, Mix, draw_mix

RATE = 44100
ROLES = ("melody", "drums", "bass")


@pytest.fixture(scope="module")
def dry():
    rng = np.random.default_rng(0)
    return [(level * rng.standard_normal((2, RATE))).astype(np.float32) for level in (0.01, 0.1, 0.05)]


def draw(dry, seed=0):
    return draw_mix(dry, ROLES, RATE, np.random.default_rng(seed))


def test_mixture_is_the_sum_of_the_wet_stems(dry):
    mix, mixture = draw(dry)
    np.testing.assert_allclose(sum(mix.wet_stems(dry, RATE)), mixture, atol=1e-6)
    np.testing.assert_array_equal(mix.mixture(dry, RATE), mixture)


def test_peak_is_bounded_and_the_scale_recorded():
    dry = [np.zeros((2, RATE), np.float32) for _ in ROLES]
    for stem in dry:
        stem[:, 5000:5003] = 0.5  # a click: softer than its peak suggests, so it is amplified beyond full scale
    mix, mixture = draw(dry)
    assert mix.scale < 1
    assert np.abs(mixture).max() == pytest.approx(PEAK, rel=1e-5)
    np.testing.assert_allclose(sum(mix.wet_stems(dry, RATE)), mixture, atol=1e-5)


def test_parameters_survive_json(dry):
    mix, mixture = draw(dry)
    again = Mix.from_dict(json.loads(json.dumps(mix.as_dict())))
    assert again == mix
    np.testing.assert_array_equal(again.mixture(dry, RATE), mixture)


def test_parts_are_brought_to_like_loudness(dry):
    mix, _ = draw(dry)
    levels = [10 * np.log10(np.mean(stem**2)) for stem in mix.wet_stems(dry, RATE)]
    assert max(levels) - min(levels) < 16


def test_silent_part_stays_silent(dry):
    stems = [dry[0], np.zeros_like(dry[1]), dry[2]]
    mix, mixture = draw(stems)
    assert np.isfinite(mixture).all()
    assert not mix.wet_stems(stems, RATE)[1].any()
