import pytest
import torch

from sonido_bench.foundation.codec.independence import IndependenceLoss
from sonido_bench.metrics.kernel_independence import dhsic, median_bandwidths

ESTIMATORS = ("dhsic", "permutation", "split")


def streams(batch=4, codebooks=3, dim=2, frames=60, seed=0):
    """Independent streams ``(batch, codebooks, dim, frames)`` float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, codebooks, dim, frames, generator=generator, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(4))
def test_independent_streams_give_nothing_but_the_bias(seed):
    given = streams(seed=seed)  # 240 samples, five bandwidths
    assert 0 < IndependenceLoss()(given).item() < 5 / 240
    assert abs(IndependenceLoss("permutation")(given, seeded(seed)).item()) < 10 / 240
    assert abs(IndependenceLoss("split")(given, seeded(seed)).item()) < 20 / 240


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_duplicated_streams_give_much_more(estimator):
    given = streams()
    loss = IndependenceLoss(estimator)
    twins = given[:, :1].expand(-1, 3, -1, -1)
    assert loss(twins, seeded()) > 10 * loss(given, seeded()).abs()


def test_the_order_of_codebooks_does_not_matter():
    given = streams()
    given[:, 2] += given[:, 0]
    for normalize in ("feature", "codebook", None):
        loss = IndependenceLoss(normalize=normalize)
        torch.testing.assert_close(loss(given[:, [2, 0, 1]]), loss(given), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normalize", ["feature", "codebook", None])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_gradient_is_that_of_finite_differences_and_not_zero(estimator, normalize):
    given = streams(batch=2, codebooks=2, frames=6)
    given[:, 1] += given[:, 0]
    given.requires_grad_()
    loss = IndependenceLoss(estimator, bandwidths=(0.5, 2.0), normalize=normalize, delays=(0, 1))
    assert torch.autograd.gradcheck(lambda x: loss(x, seeded()), given)
    (gradient,) = torch.autograd.grad(loss(given, seeded()), given)
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_value_below_zero_keeps_its_gradient(estimator):
    given = streams(frames=10).requires_grad_()
    (gradient,) = torch.autograd.grad(IndependenceLoss(estimator)(given, seeded()), given)
    assert gradient.abs().max() > 0


def test_descent_makes_streams_independent():
    torch.manual_seed(0)
    given = streams(codebooks=2, frames=40)
    mixed = torch.stack([given[:, 0], given[:, 1] + given[:, 0]], dim=1)
    unmix = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = IndependenceLoss()
    optimizer = torch.optim.Adam([unmix], lr=0.1)
    for _ in range(30):
        value = loss(torch.stack([mixed[:, 0], mixed[:, 1] + unmix * mixed[:, 0]], dim=1))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert unmix.item() == pytest.approx(-1, abs=0.25)


@pytest.mark.parametrize("delays", [(0, 1, 2), (0, 2, 2), (3, 1, 2)])
def test_delays_are_indexing_by_hand(delays):
    given = streams(frames=20)
    first = max(delays)
    last = 20 + min(delays)
    by_hand = torch.stack(
        [
            torch.stack([given[:, k, :, t - delay] for t in range(first, last)], dim=-1)
            for k, delay in enumerate(delays)
        ],
        dim=1,
    )
    assert by_hand.shape[-1] == 20 - (max(delays) - min(delays))  # no complete frame is wasted
    assert torch.equal(IndependenceLoss(delays=delays)(given), IndependenceLoss()(by_hand))


def test_delays_find_what_they_align():
    given = streams(codebooks=2)
    given[:, 1, :, :-1] = given[:, 0, :, 1:]  # the second is one frame ahead
    assert IndependenceLoss(delays=(0, 1))(given) > 10 * IndependenceLoss()(given)


def test_it_is_dhsic_of_standardised_frames():
    given = streams()
    samples = given.permute(0, 3, 1, 2).reshape(-1, 3, 2)
    samples = (samples - samples.mean(dim=0)) / samples.std(dim=0, correction=0)
    bandwidths = median_bandwidths(samples, (0.25, 0.5, 1.0, 2.0, 4.0))
    torch.testing.assert_close(IndependenceLoss()(given), dhsic(samples, bandwidths).sum(), rtol=1e-6, atol=0)


def test_normalisation_takes_scales_away():
    given = streams()
    scaled = given * torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1) + 5
    stretched = given * torch.tensor([1.0, 9.0]).view(1, 1, 2, 1)
    published = (0.1, 1.0, 5.0)
    for normalize in ("feature", "codebook"):
        loss = IndependenceLoss(bandwidths=published, normalize=normalize)
        torch.testing.assert_close(loss(scaled), loss(given), rtol=1e-5, atol=1e-9)
    feature, codebook = (IndependenceLoss(bandwidths=published, normalize=way) for way in ("feature", "codebook"))
    torch.testing.assert_close(feature(stretched), feature(given), rtol=1e-5, atol=1e-9)
    assert not torch.allclose(codebook(stretched), codebook(given), rtol=1e-2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_generator_makes_it_repeatable_and_thinning_draws_from_it(estimator):
    given, loss = streams(), IndependenceLoss(estimator, max_samples=50)
    assert torch.equal(loss(given, seeded(1)), loss(given, seeded(1)))
    assert not torch.equal(loss(given, seeded(1)), loss(given, seeded(2)))
    assert loss.diagnose(given, seeded(1)).samples == 50
    assert IndependenceLoss(max_samples=None).diagnose(given).samples == 240


def test_diagnostics_tell_the_parts_and_the_collapse():
    given = streams()
    given[:, 1] *= 1e-3
    given.requires_grad_()
    loss = IndependenceLoss(delays=(0, 1, 1))
    told = loss.diagnose(given)
    assert torch.equal(told.statistic, loss(given).detach())
    torch.testing.assert_close(told.per_bandwidth.sum(), told.statistic)
    assert told.bandwidths.shape == (5, 3)
    assert told.samples == 4 * 59
    assert told.variances[1] < 1e-5 < 0.5 < told.variances[0]
    assert not told.statistic.requires_grad


def test_half_precision_is_read_as_float32():
    given = streams()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = IndependenceLoss()(given.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, IndependenceLoss()(given.bfloat16().float()))


def test_bad_input_is_refused():
    loss = IndependenceLoss()
    with pytest.raises(ValueError, match=r"streams \(batch, codebooks, dim, frames\)"):
        loss(torch.randn(4, 3, 60))
    with pytest.raises(ValueError, match="floating-point"):
        loss(torch.ones(4, 3, 2, 60, dtype=torch.int64))
    with pytest.raises(ValueError, match="samples are not finite"):
        loss(torch.full((4, 3, 2, 60), torch.nan))
    with pytest.raises(ValueError, match="at least 6 samples"):
        loss(torch.randn(1, 3, 2, 5))
    with pytest.raises(ValueError, match="at least 2 vectors"):
        loss(torch.randn(4, 1, 2, 60))
    with pytest.raises(ValueError, match="expected more than 5 frames"):
        IndependenceLoss(delays=(0, 1, 5))(torch.randn(4, 3, 2, 5))
    with pytest.raises(ValueError, match="for 2 delays"):
        IndependenceLoss(delays=(0, 1))(torch.randn(4, 3, 2, 60))


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "hsic"},
        {"normalize": "layer"},
        {"bandwidths": "mean"},
        {"bandwidths": ()},
        {"bandwidths": (0.0, 1.0)},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        IndependenceLoss(**options)
