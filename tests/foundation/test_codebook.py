import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import nn

from sonido_bench.errors import DataError
from sonido_bench.foundation.codebook import EMACodebook, kmeans, nearest, perplexity, token_shares


def blobs(centres, per_centre=50, spread=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = centres.repeat_interleave(per_centre, dim=0)
    return points + spread * torch.randn(points.shape, generator=generator)


def grid(scale=1.0):
    return scale * torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))


def inertia(points, centres):
    return float(torch.cdist(points, centres).square().min(dim=1).values.sum())


def test_kmeans_finds_well_separated_clusters():
    found = kmeans(blobs(grid()), 16, generator=torch.Generator().manual_seed(0))
    assert torch.cdist(grid(), found).min(dim=1).values.max() < 0.05


def test_kmeans_ends_where_scipy_does_from_the_same_start():
    points = torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    start = kmeans(points, 8, 0, torch.Generator().manual_seed(2), start="random")
    expected, _ = kmeans2(points.double().numpy(), start.double().numpy(), iter=7, minit="matrix")
    found = kmeans(points, 8, 7, torch.Generator().manual_seed(2), start="random")
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_the_same_generator_gives_the_same_centres_and_another_one_does_not():
    points = torch.randn(200, 3)
    first, second, other = (kmeans(points, 5, 3, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_codebooks_are_clustered_apart_from_each_other():
    both = torch.stack([blobs(grid()), blobs(grid(10.0))])
    found = kmeans(both, 16, generator=torch.Generator().manual_seed(0))
    assert inertia(both[0], found[0]) < 16 * 50 * 0.01
    assert torch.cdist(grid(10.0), found[1]).min(dim=1).values.max() < 0.05


def test_empty_clusters_take_the_farthest_points():
    points = torch.cat([torch.zeros(50, 2), torch.tensor([[100.0, 0.0], [0.0, 70.0]])])
    found = kmeans(points, 3, 10, torch.Generator().manual_seed(5), start="random")
    assert inertia(points, found) < 1e-6


def test_kmeans_refuses_too_few_points_and_nan():
    with pytest.raises(DataError, match="at least 8 finite points, found 4 points"):
        kmeans(torch.randn(4, 2), 8)
    with pytest.raises(DataError, match="not finite"):
        kmeans(torch.full((9, 2), torch.nan), 8)


def test_nearest_is_the_smallest_distance():
    points, codes = torch.randn(3, 40, 5), torch.randn(3, 7, 5)
    assert torch.equal(nearest(points, codes), torch.cdist(points, codes).argmin(dim=2))


def test_perplexity_counts_the_codes_in_use():
    tokens = torch.tensor([[0, 3], [1, 3], [2, 3], [3, 3]])
    torch.testing.assert_close(perplexity(token_shares(tokens, 8)), torch.tensor([4.0, 1.0]))


def test_codes_follow_the_moving_average_of_their_latents():
    book = EMACodebook(2, 1, decay=0.9, restart_below=0.0)
    book.initialise(torch.zeros(1, 1, 1), torch.tensor([[[0.0], [10.0]]]))
    book.train()(torch.tensor([[[1.0]], [[3.0]], [[12.0]]]))
    # counts 0.9 * 1 + 0.1 * n, sums 0.9 * code + 0.1 * total
    torch.testing.assert_close(book.counts, torch.tensor([[1.1, 1.0]]))
    torch.testing.assert_close(book.codes, torch.tensor([[[0.4 / 1.1], [9.0 + 1.2]]]))


def test_the_gradient_passes_straight_through():
    book = EMACodebook(4, 2).train()
    latents = torch.randn(6, 1, 2, requires_grad=True)
    output = book(latents)
    (3 * output.values).sum().backward()
    torch.testing.assert_close(latents.grad, torch.full_like(latents, 3.0))
    assert not output.codes.requires_grad


def test_the_first_training_batch_starts_the_codes_and_the_checkpoint_says_so():
    book = EMACodebook(4, 2)
    book.eval()(torch.randn(8, 1, 2))
    assert not book.initialised
    latents = torch.randn(8, 1, 2)
    book.train()(latents)
    assert book.initialised
    restored = EMACodebook(4, 2)
    restored.load_state_dict(book.state_dict())
    assert restored.initialised
    assert torch.equal(restored.codes, book.codes)


@pytest.mark.parametrize("relative", [False, True])
def test_a_code_out_of_use_restarts_on_a_latent_of_the_batch(relative):
    threshold = 0.5 if relative else 1.0
    book = EMACodebook(3, 1, decay=0.5, restart_below=threshold, relative=relative)
    book.initialise(torch.zeros(1, 1, 1), torch.tensor([[[0.0], [5.0], [1000.0]]]))
    latents = torch.tensor([0.0, 0.1, 0.2, 4.9, 5.0, 5.1]).view(-1, 1, 1)
    for _ in range(4):
        book.train()(latents)
    assert book.codes.max() < 6


def test_as_published_a_restarted_code_keeps_its_old_sum_which_draws_it_back():
    near = torch.tensor([0.0, 0.1, 0.2]).view(-1, 1, 1)
    codes, sums = {}, {}
    for keep_sums in (True, False):
        book = EMACodebook(2, 1, decay=0.5, keep_sums=keep_sums)
        book.initialise(near, torch.tensor([[[0.0], [1000.0]]]))
        book.train()(near)
        codes[keep_sums], sums[keep_sums] = float(book.codes[0, 1]), float(book.sums[0, 1])
    assert max(codes.values()) < 1
    assert sums[True] == 500.0
    assert sums[False] == pytest.approx(0.5 * codes[False])


def test_the_codes_that_are_alive_have_counts_of_the_threshold():
    book = EMACodebook(3, 1, restart_below=0.5)
    book.counts.copy_(torch.tensor([[0.1, 0.5, 9.0]]))
    assert book.alive.tolist() == [[False, True, True]]
    book.relative = True  # half of the mean count, 3.2
    assert book.alive.tolist() == [[False, False, True]]


def test_without_restarts_a_code_that_nothing_uses_stays_where_it_is():
    book = EMACodebook(2, 1, decay=0.5, restart_below=0.0)
    book.initialise(torch.zeros(1, 1, 1), torch.tensor([[[0.0], [1000.0]]]))
    for _ in range(200):  # its count and sum fall below what a float32 holds
        book.train()(torch.zeros(4, 1, 1))
    assert book.codes.flatten().tolist() == [0.0, 1000.0]


def test_inference_learns_nothing():
    book = EMACodebook(4, 2)
    book.initialise(torch.randn(8, 1, 2))
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book.eval()(torch.randn(8, 1, 2))
    assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())
    assert isinstance(book, nn.Module)
    assert not list(book.parameters())


def test_its_variance_makes_the_gaussian_term_the_commitment():
    assert 1 / (2 * EMACodebook(4, 2, commitment=0.25).variance) == 0.25
