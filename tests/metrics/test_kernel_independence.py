import math

import pytest
import torch

from sonido_bench.metrics import kernel_independence
from sonido_bench.metrics.kernel_independence import (
    dhsic,
    dhsic_p_value,
    median_bandwidths,
    permutation_mmd,
    split_mmd,
)


def draw(count, codebooks=3, dim=2, common=0.0, seed=0):
    """Unit-variance vectors that share some of their value: ``(samples, codebooks, dim)`` float64."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(count, codebooks, dim, generator=generator, dtype=torch.float64)
    shared = torch.randn(count, 1, dim, generator=generator, dtype=torch.float64)
    return math.sqrt(1 - common**2) * own + common * shared


def by_loops(samples, bandwidths):
    """DHSIC from its definition, one pair at a time."""
    rows, count, vectors = samples.tolist(), len(samples), samples.shape[1]

    def kernel(i, j, k, bandwidth):
        distance = sum((a - b) ** 2 for a, b in zip(rows[i][k], rows[j][k], strict=True))
        return math.exp(-distance / (2 * bandwidth))

    values = []
    for bandwidth in bandwidths.tolist():
        table = [[[kernel(i, j, k, bandwidth[k]) for k in range(vectors)] for j in range(count)] for i in range(count)]
        joint = sum(math.prod(table[i][j]) for i in range(count) for j in range(count)) / count**2
        means = [[sum(table[i][j][k] for j in range(count)) / count for k in range(vectors)] for i in range(count)]
        apart = math.prod(sum(means[i][k] for i in range(count)) / count for k in range(vectors))
        values.append(joint + apart - 2 * sum(math.prod(mean) for mean in means) / count)
    return torch.tensor(values, dtype=torch.float64)


def test_dhsic_is_its_definition():
    samples = draw(12, common=0.5)
    bandwidths = torch.tensor([[0.5, 1.0, 2.0], [3.0, 0.2, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(dhsic(samples, bandwidths), by_loops(samples, bandwidths), rtol=1e-10, atol=1e-13)


def test_the_mmd_is_its_definition():
    samples = draw(10, common=0.5)
    bandwidths = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(10, generator=generator) for _ in range(3)]
    permuted = torch.stack([samples[order, k] for k, order in enumerate(orders)], dim=1)

    def kernel(a, b):
        return math.exp(-sum(float((a[k] - b[k]).square().sum() / (2 * bandwidths[0, k])) for k in range(3)))

    def mean(first, second, same):
        values = [kernel(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if not (same and i == j)]
        return sum(values) / len(values)

    expected = mean(samples, samples, True) + mean(permuted, permuted, True) - 2 * mean(samples, permuted, False)
    found = permutation_mmd(samples, bandwidths, torch.Generator().manual_seed(3))
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_memory_saving_chunks_change_neither_value_nor_gradient(monkeypatch):
    samples = draw(30, common=0.3).requires_grad_()
    bandwidths = median_bandwidths(samples, (0.5, 2.0))
    for function in (dhsic, lambda *given: split_mmd(*given, torch.Generator().manual_seed(0))):
        whole = function(samples, bandwidths).sum()
        (expected,) = torch.autograd.grad(whole, samples)
        with monkeypatch.context() as patch:
            patch.setattr(kernel_independence, "_CHUNK_ELEMENTS", 30 * 4 * 2 * 7)
            parts = function(samples, bandwidths).sum()
            (found,) = torch.autograd.grad(parts, samples)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_gradients_are_those_of_finite_differences():
    samples = draw(9, common=0.4).requires_grad_()
    bandwidths = torch.tensor([[0.7] * 3, [2.0] * 3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: dhsic(x, bandwidths), samples)
    for function in (permutation_mmd, split_mmd):
        assert torch.autograd.gradcheck(
            lambda x, f=function: f(x, bandwidths, torch.Generator().manual_seed(1)), samples
        )


@pytest.mark.parametrize("count", [128, 256])
def test_biases_without_dependence_are_those_of_the_estimators(count):
    """Four vectors of four dimensions, one median kernel: +0.2/N, -0.83/N and 0 (the project's notes, from 20 runs)."""
    found = {"dhsic": [], "permutation": [], "split": []}
    for seed in range(12):
        samples, generator = draw(count, 4, 4, seed=seed), torch.Generator().manual_seed(seed)
        bandwidths = median_bandwidths(samples, (1.0,))
        found["dhsic"].append(dhsic(samples, bandwidths).item())
        found["permutation"].append(permutation_mmd(samples, bandwidths, generator).item())
        found["split"].append(split_mmd(samples, bandwidths, generator).item())
    assert 0 < min(found["dhsic"]) <= max(found["dhsic"]) < 0.5 / count
    permuted = torch.tensor(found["permutation"])
    assert permuted.mean().item() == pytest.approx(-0.84 / count, abs=0.1 / count)
    assert permuted.max() < 0
    split = torch.tensor(found["split"])
    assert abs(split.mean()) < 4 * split.std() / math.sqrt(12)


def test_the_three_agree_on_dependence_but_for_their_biases():
    found, without = [], []
    for seed in range(8):
        for common, values in ((0.8, found), (0.0, without)):
            samples, generator = draw(256, 4, 4, common, seed), torch.Generator().manual_seed(seed)
            bandwidths = median_bandwidths(samples, (1.0,))
            values.append(
                torch.cat(
                    [
                        dhsic(samples, bandwidths),
                        permutation_mmd(samples, bandwidths, generator),
                        split_mmd(samples, bandwidths, generator),
                    ]
                )
            )
    excess = (torch.stack(found) - torch.stack(without)).mean(dim=0)
    assert excess.min() > 0.008
    torch.testing.assert_close(excess, excess.mean().expand(3), rtol=0.15, atol=0)


def test_the_median_rule_follows_each_vectors_scale():
    samples = draw(200, 2, 3)
    scaled = samples * torch.tensor([1.0, 7.0]).view(1, 2, 1)
    small, large = median_bandwidths(samples, (0.5, 1.0)), median_bandwidths(scaled, (0.5, 1.0))
    torch.testing.assert_close(large, small * torch.tensor([1.0, 49.0]))
    torch.testing.assert_close(small[0], small[1] / 2)
    torch.testing.assert_close(dhsic(scaled, large), dhsic(samples, small))
    distances = torch.pdist(samples[:, 0]).square()
    assert small[1, 0].item() == pytest.approx(2 * distances.median().item() / 2)


def test_codes_that_are_mostly_equal_or_all_equal_have_a_bandwidth():
    samples = torch.zeros(40, 2, 1)
    samples[:5, 0] = 1.0
    bandwidths = median_bandwidths(samples, (1.0,))
    assert 0 < bandwidths[0, 0] < 1
    assert bandwidths[0, 1] == 1
    assert dhsic(samples, bandwidths).abs().item() < 1e-6  # a constant is independent of all


def test_the_p_value_is_small_for_dependence_only():
    generator = torch.Generator().manual_seed(0)
    assert dhsic_p_value(draw(80, common=0.8), permutations=49, generator=generator) == 1 / 50
    values = [dhsic_p_value(draw(40, seed=seed), permutations=19, generator=generator) for seed in range(20)]
    assert 0.25 < sum(values) / 20 < 0.75
    assert sum(value <= 0.05 for value in values) <= 4  # of 20; binomial chance below 0.3 %


def test_the_p_values_observed_statistic_is_dhsic():
    samples = draw(20, common=0.5)
    bandwidths = median_bandwidths(samples, (0.5, 1.0))
    grams = [
        torch.stack(
            [torch.exp(-torch.cdist(v, v).square() / (2 * b)) for v, b in zip(samples.unbind(1), row, strict=True)]
        )
        for row in bandwidths
    ]
    order = torch.arange(20).expand(3, -1)
    assert kernel_independence._gram_statistic(grams, order) == pytest.approx(dhsic(samples, bandwidths).sum().item())


def test_bad_input_is_refused():
    bandwidths = torch.ones(1, 3)
    with pytest.raises(ValueError, match="at least 6 samples for 3 vectors, got 5"):
        dhsic(draw(5).float(), bandwidths)
    with pytest.raises(ValueError, match="at least 2 vectors"):
        dhsic(torch.randn(10, 1, 2), bandwidths)
    with pytest.raises(ValueError, match="floating-point"):
        dhsic(torch.ones(10, 3, 2, dtype=torch.int64), bandwidths)
    with pytest.raises(ValueError, match="positive bandwidths"):
        split_mmd(torch.randn(10, 3, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="positive bandwidths"):
        permutation_mmd(torch.randn(10, 3, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="not finite"):
        dhsic(torch.full((10, 3, 2), torch.nan), bandwidths)
    with pytest.raises(ValueError, match="at least 1 permutation"):
        dhsic_p_value(draw(20), permutations=0)
