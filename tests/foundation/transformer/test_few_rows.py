import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sonido_bench.foundation.transformer import few_rows
from sonido_bench.foundation.transformer.cache import KVCache
from sonido_bench.foundation.transformer.few_rows import few_rows_linear, lay_out
from sonido_bench.foundation.transformer.stepping import Stepper
from sonido_bench.foundation.transformer.transformer import Transformer, TransformerConfig


def layer(dtype, inputs=47, outputs=20, bias=True):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).to(dtype)


@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
@torch.no_grad()
def test_every_routine_multiplies(rows, dtype, turned, bias, threads, monkeypatch):
    """Products are held to float64; bfloat16 keeps 8 bits of what is about 1. Three threads get unequal bags."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(few_rows, "_SMALL", 0)
    monkeypatch.setattr(few_rows, "_SHARE", 100)
    linear = layer(dtype, bias=bias)
    given = torch.randn(rows, 47).to(dtype)
    expected = F.linear(given.double(), linear.weight.double(), linear.bias.double() if bias else None)
    if turned:
        lay_out(linear)
    found = few_rows_linear(linear.weight, linear.bias, rows)(given)
    assert found.shape == (rows, 20)
    assert found.dtype == dtype
    assert not found.requires_grad
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-12}[dtype]
    assert torch.allclose(found.double(), expected, atol=tolerance, rtol=tolerance)


def test_laid_out_weights_are_what_they_were():
    module = nn.Sequential(layer(torch.float32), nn.LayerNorm(20), layer(torch.float16, 20, 47))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    lay_out(module)
    lay_out(module)  # once is enough
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module[0].weight.stride() == (1, 20)
    assert module[0].weight.untyped_storage().nbytes() == 4 * 47 * 20
    assert module[2].weight.is_contiguous()
    module[0](torch.randn(2, 47)).sum().backward()
    assert module[0].weight.grad.shape == (20, 47)


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_laid_out_transformers_step_as_they_did(batch):
    torch.manual_seed(0)
    config = TransformerConfig(16, 3, 2, attention_width=8, mlp_width=24, block_length=5)
    transformer, hidden = Transformer(config).eval(), torch.randn(batch, 17, 16)
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.5)
    expected = transformer(hidden)
    lay_out(transformer)
    cache = KVCache(3)
    outputs = [transformer(hidden[:, :4], cache=cache)]
    stepper = Stepper(transformer, cache, 17)
    outputs += [stepper(hidden[:, position]).unsqueeze(1) for position in range(4, 17)]
    assert torch.allclose(torch.cat(outputs, dim=1), expected, atol=1e-4, rtol=1e-4)
