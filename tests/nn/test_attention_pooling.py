import pytest
import torch
from torch.nn import functional

from sonido_bench.nn.attention_pooling import AttentionPooling, masked_max, masked_mean, token_out


def lengths_mask(lengths, frames):
    return torch.arange(frames)[None] < torch.tensor(lengths)[:, None]


def test_pooling_is_multi_head_attention_of_learned_queries():
    torch.manual_seed(0)
    pooling = AttentionPooling(8, heads=2, queries=3)
    tokens = torch.randn(4, 5, 8)
    weights = pooling.logits(tokens).softmax(1)  # (batch, frames, queries * heads)
    expected = []
    for query in range(3):
        for head in range(2):
            value = tokens @ pooling.values[head]
            expected.append((weights[..., query * 2 + head, None] * value).sum(1))
    assert torch.allclose(pooling(tokens), torch.cat(expected, -1), atol=1e-5)


def test_masked_frames_do_not_count():
    torch.manual_seed(0)
    pooling = AttentionPooling(8)
    tokens = torch.randn(2, 6, 8)
    mask = lengths_mask([6, 3], 6)
    for pool in (pooling, masked_mean, masked_max):
        whole = pool(tokens, mask)
        assert torch.allclose(whole[0], pool(tokens)[0], atol=1e-6)
        assert torch.allclose(whole[1], pool(tokens[1:, :3])[0], atol=1e-6)


def test_token_out_removes_the_asked_share_and_keeps_one():
    torch.manual_seed(0)
    tokens = torch.zeros(200, 50, 1)
    assert token_out(tokens, 0.3).float().mean() == pytest.approx(0.7, abs=0.02)
    assert (token_out(tokens, 1.0).sum(1) == 1).all()
    assert token_out(tokens, 0.0).all()


def test_token_out_keeps_a_valid_token_of_each_clip():
    tokens = torch.zeros(64, 8, 1)
    mask = lengths_mask([1, 2, 3, 8] * 16, 8)
    keep = token_out(tokens, 0.95, mask)
    assert keep.any(1).all()
    assert not (keep & ~mask).any()


def test_heads_must_divide_width():
    with pytest.raises(ValueError, match="multiple of heads"):
        AttentionPooling(10, heads=4)


def test_gradients_reach_queries_and_values():
    pooling = AttentionPooling(8)
    functional.mse_loss(pooling(torch.randn(2, 5, 8)), torch.randn(2, 8)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in pooling.parameters())
