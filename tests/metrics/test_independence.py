import math

import pytest
import torch

from sonido_bench.metrics.independence import (
    align,
    code_use,
    pairwise_information,
    product_of_marginals,
    total_correlation,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def independent(size=4, codebooks=3, frames=2000, batch=10, seed=0):
    """Uniform codes ``(batch, frames, codebooks)``."""
    return torch.randint(size, (batch, frames, codebooks), generator=seeded(seed))


def coupled(size=4, same=0.75, frames=2000, batch=10, seed=0):
    """Of three codebooks the second repeats the first with a known chance, the third is on its own."""
    codes = independent(size, 3, frames, batch, seed)
    repeated = torch.rand(batch, frames, generator=seeded(seed + 100)) < same
    codes[..., 1] = torch.where(repeated, codes[..., 0], codes[..., 1])
    equal = same + (1 - same) / size
    others = (1 - same) / size
    conditional = -equal * math.log2(equal) - (size - 1) * others * math.log2(others)
    return codes, math.log2(size) - conditional


def exclusive_or(frames=500, batch=10, seed=0):
    """Any two of three bits are independent; all three have one bit in common."""
    codes = independent(2, 3, frames, batch, seed)
    codes[..., 2] = codes[..., 0] ^ codes[..., 1]
    return codes


@pytest.mark.parametrize("shape", [(2, 3, 12), (2, 3, 5, 12)])
def test_alignment_is_indexing_by_hand(shape):
    streams = torch.arange(math.prod(shape)).view(shape)
    found = align(streams, (1, 4, 2))
    assert found.shape == (*shape[:-1], 9)
    for t in range(9):
        for k, delay in enumerate((1, 4, 2)):
            assert torch.equal(found[:, k, ..., t], streams[:, k, ..., t + 4 - delay])
    assert torch.equal(align(streams, (2, 2, 2)), streams)


def test_total_correlation_of_known_distributions():
    codes, expected = coupled()
    found = total_correlation(codes, 4)
    assert (found.method, found.samples, found.cells) == ("plug_in", 20_000, 64)
    assert found.bits == pytest.approx(expected, abs=0.03)  # 3 standard errors
    assert total_correlation(exclusive_or(), 2).bits == pytest.approx(1, abs=0.01)
    triple = independent()[..., :1].expand(-1, -1, 3)
    assert total_correlation(triple, 4).bits == pytest.approx(4, abs=0.01)


def test_total_correlation_is_unbiased_near_independence():
    """Without Miller and Madow's correction the bias would be 54 / 2n nats, 0.0122 bits, six times the spread."""
    found = torch.tensor([total_correlation(independent(batch=4, frames=800, seed=s), 4).bits for s in range(30)])
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(30) + 2e-4  # of order 1 / n^2: what is left
    assert abs(found.mean()) < 0.002
    assert found.min() < 0 < found.max()


def test_the_held_out_estimate_is_close_below_and_finds_what_pairs_do_not_show():
    codes, expected = coupled(frames=400)
    found = total_correlation(codes, 4, method="held_out")
    plug_in = total_correlation(codes, 4).bits
    assert found.method == "held_out"
    assert plug_in - 0.12 < found.bits < plug_in + 0.06
    assert expected == pytest.approx(plug_in, abs=0.08)
    assert total_correlation(exclusive_or(200), 2, method="held_out").bits == pytest.approx(1, abs=0.05)


def test_the_held_out_estimate_of_independent_codes_is_about_zero():
    codes = independent(64, 2, 300)
    found = total_correlation(codes, 64)  # 4096 cells: the plug-in would tell nothing
    assert found.method == "held_out"
    assert -0.1 < found.bits < 0.03
    assert total_correlation(codes, 64, method="plug_in").bits > 0.1
    assert total_correlation(codes, 64) == found  # repeatable


def test_a_large_number_of_cells_does_not_overflow():
    codes = independent(2048, 8, 50, 2)
    assert total_correlation(codes, 2048, method="plug_in").cells == 100


def test_pairwise_information_of_known_distributions():
    codes, expected = coupled()
    found = pairwise_information(codes, 4)
    assert found.method == "plug_in"
    assert found.bits[0, 1].item() == pytest.approx(expected, abs=0.03)
    assert torch.equal(found.bits, found.bits.T)
    assert abs(found.bits[0, 2]) < 0.002
    torch.testing.assert_close(found.bits.diagonal(), torch.full((3,), 2.0).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.normalised[0, 1].item(), found.bits[0, 1].item() / 2, atol=1e-3, rtol=0)
    assert torch.equal(found.normalised.diagonal(), torch.ones(3, dtype=torch.float64))
    assert pairwise_information(exclusive_or(2000), 2).bits[0, 2].abs() < 0.001


def test_pairwise_information_is_unbiased_near_independence():
    found = torch.stack([pairwise_information(independent(8, 2, 400, 4, seed=s), 8).bits[0, 1] for s in range(30)])
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(30) + 2e-4
    assert abs(found.mean()) < 0.003  # 49 / 2n nats = 0.022 bits uncorrected


def test_large_codebooks_take_the_held_out_pairwise_estimate():
    codes, expected = coupled(32, 0.9, 300)
    found = pairwise_information(codes[..., :2], 32)
    assert found.method == "held_out"
    assert expected - 0.6 < found.bits[0, 1].item() < expected + 0.1


def test_a_constant_codebook_shares_nothing():
    codes = independent()
    codes[..., 1] = 3
    found = pairwise_information(codes, 4)
    assert found.normalised[0, 1] == 0
    assert found.bits[1, 1] == 0
    assert abs(found.bits[0, 1]) < 1e-9


def test_delays_pair_the_frames_that_a_delayed_model_draws_together():
    codes = independent(4, 2)
    codes[:, :-1, 1] = codes[:, 1:, 0]  # the second is one frame ahead
    assert abs(total_correlation(codes, 4).bits) < 0.005
    assert total_correlation(codes, 4, delays=(0, 1)).bits == pytest.approx(2, abs=0.01)
    assert pairwise_information(codes, 4, delays=(0, 1)).normalised[0, 1].item() == pytest.approx(1, abs=0.01)


def test_use_of_codes():
    codes = independent(4)
    codes[..., 1] = 2
    codes[..., 2] %= 2
    use = code_use(codes, 8)
    torch.testing.assert_close(use.entropy, torch.tensor([2.0, 0.0, 1.0]).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(use.perplexity, torch.tensor([4.0, 1.0, 2.0]).double(), atol=5e-3, rtol=0)
    torch.testing.assert_close(use.active, torch.tensor([0.5, 0.125, 0.25]).double())


def test_shuffling_keeps_marginals_and_breaks_the_rest():
    codes, _ = coupled()
    shuffled = product_of_marginals(codes, generator=seeded())
    assert shuffled.shape == codes.shape
    for k in range(3):
        assert torch.equal(shuffled[..., k].flatten().bincount(), codes[..., k].flatten().bincount())
    assert abs(total_correlation(shuffled, 4).bits) < 0.005
    assert torch.equal(shuffled, product_of_marginals(codes, generator=seeded()))


def test_shuffling_with_delays_draws_from_the_aligned_frames():
    codes = torch.arange(2 * 5).view(2, 5, 1).expand(-1, -1, 2)
    shuffled = product_of_marginals(codes, (0, 2), seeded())
    assert shuffled.shape == (2, 3, 2)
    assert sorted(shuffled[..., 0].flatten().tolist()) == [2, 3, 4, 7, 8, 9]
    assert sorted(shuffled[..., 1].flatten().tolist()) == [0, 1, 2, 5, 6, 7]


def test_bad_input_is_refused():
    codes = independent()
    with pytest.raises(ValueError, match=r"integer codes \(batch, frames, codebooks\)"):
        total_correlation(codes.float(), 4)
    with pytest.raises(ValueError, match="integer codes"):
        code_use(codes[0], 4)
    with pytest.raises(ValueError, match="from 0 to below 3, got 0 to 3"):
        pairwise_information(codes, 3)
    with pytest.raises(ValueError, match="got -1 to 2"):
        product_of_marginals(codes - 1)
    with pytest.raises(ValueError, match="for 2 delays"):
        total_correlation(codes, 4, delays=(0, 1))
    with pytest.raises(ValueError, match="delays of at least 0"):
        align(codes.transpose(1, 2), (0, -1, 2))
    with pytest.raises(ValueError, match="at least 100 samples, got 50"):
        total_correlation(independent(4, 3, 50, 1), 4, method="held_out")
