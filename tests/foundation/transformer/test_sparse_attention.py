import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.transformer.cache import LayerCache
from sonido_bench.foundation.transformer.sparse_attention import SparseAttention, attend

BLOCK = 4
PRIME = 6  # no multiple of a row
LENGTHS = [1, 3, 4, 5, 8, 11, 16, 18]
CAUSAL = ["row", "column", "previous_row", "prime", "dense"]


def allowed(pattern, length, block=BLOCK):
    """The definition, pair by pair."""
    rules = {
        "row": lambda i, j: i // block == j // block and j <= i,
        "column": lambda i, j: i % block == j % block and j <= i,
        "previous_row": lambda i, j: j // block == i // block - 1,
        "prime": lambda i, j: j <= i and j < PRIME,
        "dense": lambda i, j: j <= i,
        "bidirectional": lambda i, j: True,
    }
    return torch.tensor([[rules[pattern](i, j) for j in range(length)] for i in range(length)])


def masked_attention(q, k, v, mask):
    """Attention from all pairs, in double precision; zero where nothing is allowed."""
    q, k, v = (part.double().transpose(1, 2) for part in (q, k, v))
    weights = torch.exp(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5) * mask
    return (weights / weights.sum(-1, keepdim=True).clamp(min=1e-30) @ v).transpose(1, 2).float()


def random_parts(length, heads=2, head_dim=3):
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(2, length, heads, head_dim, generator=generator, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("pattern", [*CAUSAL, "bidirectional"])
def test_pattern_equals_the_dense_masked_definition_forward_and_backward(pattern, length):
    parts = random_parts(length)
    ours = attend(*parts, pattern, BLOCK, PRIME)
    theirs = masked_attention(*parts, allowed(pattern, length))
    assert torch.allclose(ours, theirs, atol=1e-5)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(ours, parts, upstream, allow_unused=True, materialize_grads=True) if (
        ours.requires_grad
    ) else [torch.zeros_like(part) for part in parts]  # fmt: skip
    for one, other in zip(gradients, torch.autograd.grad(theirs, parts, upstream), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("pattern", [*CAUSAL, "bidirectional"])
def test_gradient_reaches_exactly_what_is_allowed(pattern):
    length = 14
    values = torch.randn(1, length, 1, 1, requires_grad=True)
    out = attend(torch.randn(1, length, 1, 1), torch.randn(1, length, 1, 1), values, pattern, BLOCK, PRIME).flatten()
    support = torch.stack([torch.autograd.grad(one, values, retain_graph=True)[0].flatten() != 0 for one in out])
    assert torch.equal(support, allowed(pattern, length))


def test_first_row_of_previous_row_is_exactly_zero():
    out = attend(*random_parts(10), "previous_row", BLOCK)
    assert torch.equal(out[:, :BLOCK], torch.zeros_like(out[:, :BLOCK]))
    assert (out[:, BLOCK:] != 0).all()


@pytest.mark.parametrize("chunks", [[1] * 19, [7] + [1] * 12, [5, 6, 8], [4, 8, 1, 1, 5], [19], [3, 1, 9, 1, 1, 4]])
@pytest.mark.parametrize("pattern", CAUSAL)
def test_cached_attention_equals_the_full_one(pattern, chunks):
    torch.manual_seed(0)
    attention = SparseAttention(6, heads=2, pattern=pattern, block_length=BLOCK, attention_width=4, prime_length=PRIME)
    hidden = torch.randn(2, 19, 6)
    cache = LayerCache()
    with torch.no_grad():
        parts = [attention(chunk, cache) for chunk in hidden.split(chunks, dim=1)]
        assert torch.allclose(torch.cat(parts, dim=1), attention(hidden), atol=1e-5)
    assert cache.position == 19


@pytest.mark.parametrize(
    ("pattern", "kept"), [("row", BLOCK), ("previous_row", 2 * BLOCK), ("column", 41), ("prime", PRIME)]
)
def test_cache_keeps_no_more_than_the_pattern_needs(pattern, kept):
    attention = SparseAttention(6, heads=2, pattern=pattern, block_length=BLOCK, attention_width=4, prime_length=PRIME)
    cache = LayerCache()
    with torch.no_grad():
        attention(torch.randn(1, 21, 6), cache)  # a long prompt is not kept either
        for _ in range(20):
            attention(torch.randn(1, 1, 6), cache)
            assert cache.length <= kept
            assert cache._buffers[0].shape[1] <= 2 * kept


@pytest.mark.parametrize("pattern", CAUSAL)
def test_steps_of_a_cache_that_knows_its_length_allocate_nothing_new(pattern):
    attention = SparseAttention(6, heads=2, pattern=pattern, block_length=BLOCK, attention_width=4, prime_length=PRIME)
    cache, buffers = LayerCache(expected=30), set()
    with torch.no_grad():
        attention(torch.randn(1, 9, 6), cache)
        for step in range(21):
            attention(torch.randn(1, 1, 6), cache)
            if step:  # a row's buffer has the size that it keeps from the first step on
                buffers.add(cache._buffers[0].data_ptr())
    assert len(buffers) == 1


@pytest.mark.parametrize("chunks", [[1] * 7, [3, 4], [7]])
def test_cross_attention_reads_all_of_its_context_once(chunks):
    torch.manual_seed(0)
    attention = SparseAttention(width=6, heads=2, pattern="cross", block_length=BLOCK, attention_width=4)
    hidden, context = torch.randn(2, 7, 6), torch.randn(2, 5, 6, requires_grad=True)
    q = attention.project_in(hidden).view(2, 7, 2, 2)
    k, v = attention.project_context(context).view(2, 5, 2, 2, 2).unbind(2)
    expected = attention.project_out(masked_attention(q, k, v, torch.ones(7, 5)).flatten(2))
    full = attention(hidden, context=context)
    assert torch.allclose(full, expected, atol=1e-6)
    for position in range(7):
        reached = torch.autograd.grad(full[0, position].sum(), context, retain_graph=True)[0]
        assert (reached[0].abs().amax(1) > 0).all()
        assert not reached[1].any()
    cache, runs = LayerCache(), []
    attention.project_context.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        parts = [attention(chunk, cache, context) for chunk in hidden.split(chunks, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), full, atol=1e-6)
    assert len(runs) == 1
    assert cache.position == 7


def test_heads_do_not_mix():
    q, k, v = random_parts(9)
    both = attend(q, k, v, "row", BLOCK)
    assert torch.allclose(both[:, :, :1], attend(q[:, :, :1], k[:, :, :1], v[:, :, :1], "row", BLOCK), atol=1e-6)


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="unknown attention pattern 'rows'"):
        SparseAttention(8, 2, "rows", 4, 8)
    with pytest.raises(ConfigError, match="heads that divide"):
        SparseAttention(8, 3, "row", 4, 8)
    with pytest.raises(ConfigError, match="block_length"):
        SparseAttention(8, 2, "row", 0, 8)
    with pytest.raises(ConfigError, match="positive prime_length"):
        SparseAttention(8, 2, "prime", 4, 8)
    with pytest.raises(ValueError, match="wants a context"):
        SparseAttention(8, 2, "cross", 4, 8)(torch.zeros(1, 2, 8))
    with pytest.raises(ValueError, match="nothing is kept"):
        _ = LayerCache().kept
    with pytest.raises(ValueError, match="cannot be continued"):
        SparseAttention(8, 2, "bidirectional", 4, 8)(torch.zeros(1, 2, 8), LayerCache())
