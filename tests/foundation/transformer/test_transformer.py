from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.transformer.cache import KVCache
from sonido_bench.foundation.transformer.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(
    width=12, depth=5, heads=2, attention_width=8, mlp_width=16, block_length=4,
    patterns=("row", "column", "previous_row", "dense"), init_scale=10.0,
)  # fmt: skip


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return Transformer(CONFIG).eval()


@pytest.fixture
def hidden():
    return torch.randn(2, 19, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("chunks", [[1] * 19, [10] + [1] * 9, [6, 6, 1, 6], [4, 4, 4, 4, 3]])
def test_cached_run_equals_the_full_one(transformer, hidden, chunks):
    cache = KVCache(CONFIG.depth)
    with torch.no_grad():
        parts = [transformer(chunk, cache=cache) for chunk in hidden.split(chunks, dim=1)]
        assert torch.allclose(torch.cat(parts, dim=1), transformer(hidden), atol=1e-5)


def test_no_block_is_run_deeper_than_asked(transformer, hidden):
    runs = []
    for index, block in enumerate(transformer.blocks):
        block.register_forward_hook(lambda *_, index=index: runs.append(index + 1))
    for layers, expected in [((0,), []), ((2, 1), [1, 2]), ({3}, [1, 2, 3]), ((0, 5), [1, 2, 3, 4, 5])]:
        runs.clear()
        outputs = transformer(hidden, layers)
        assert runs == expected
        assert list(outputs) == sorted(layers)
    assert torch.equal(outputs[0], hidden)
    assert torch.equal(outputs[5], transformer(hidden))


@pytest.mark.parametrize("layers", [(), (6,), (-1, 2)])
def test_layers_that_are_not_there_are_refused(transformer, hidden, layers):
    with pytest.raises(ValueError, match="layers must be some of 0 to 5"):
        transformer(hidden, layers)


def test_block_is_the_formula(transformer, hidden):
    block = transformer.blocks[3]
    attended = hidden + block.attention(F.layer_norm(hidden, (12,)))
    expected = attended + block.mlp_out(F.gelu(block.mlp_in(F.layer_norm(attended, (12,)))))
    assert torch.allclose(block(hidden), expected, atol=1e-5)
    block.quick = True
    inner = block.mlp_in(F.layer_norm(attended, (12,)))
    expected = attended + block.mlp_out(inner / (1 + torch.exp(-1.702 * inner)))
    assert torch.allclose(block(hidden), expected, atol=1e-5)


def test_checkpointing_changes_no_gradient(hidden):
    torch.manual_seed(0)
    plain = Transformer(replace(CONFIG, dropout=0.3))
    saving = Transformer(replace(CONFIG, dropout=0.3, checkpointing=True))
    saving.load_state_dict(plain.state_dict())
    for model in (plain, saving):
        torch.manual_seed(1)
        model(hidden)[:, 2:].square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_blocks_are_run_again_in_the_backward_pass_when_checkpointing(hidden):
    model = Transformer(replace(CONFIG, checkpointing=True))
    runs = []
    model.blocks[0].mlp_in.register_forward_hook(lambda *_: runs.append(1))
    model(hidden).sum().backward()
    assert len(runs) == 2


def test_weights_start_as_configured():
    config = replace(CONFIG, width=128, attention_width=128, mlp_width=512, depth=8, init_scale=0.5)
    block = Transformer(config).blocks[0]
    assert block.mlp_in.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert block.mlp_out.weight.std().item() == pytest.approx(0.01 / 4, rel=0.05)
    assert not block.attention.project_in.bias.any()


def test_jukebox_weights_are_not_scaled_by_depth_and_cross_attention_starts_silent():
    config = replace(
        CONFIG, width=128, attention_width=128, mlp_width=512, depth=8, init_scale=0.5, depth_scaled_init=False,
        patterns=("row", "cross"),
    )  # fmt: skip
    model = Transformer(config)
    assert model.blocks[0].mlp_out.weight.std().item() == pytest.approx(0.01, rel=0.05)
    hidden = torch.randn(1, 5, 128)
    assert torch.equal(model.blocks[1](hidden, context=torch.randn(1, 3, 128)), hidden)


def test_meta_device():
    with torch.device("meta"):
        model = Transformer(replace(CONFIG, width=1024, depth=72, attention_width=256, mlp_width=1024))
        assert model(torch.empty(1, 21, 1024)).shape == (1, 21, 1024)


def test_bfloat16_autocast_is_close_to_float32(transformer, hidden):
    model = transformer
    with torch.no_grad():
        expected = model(hidden)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(hidden)
            cache = KVCache(CONFIG.depth)
            cached = torch.cat([model(chunk, cache=cache) for chunk in hidden.split([9, 1, 9], dim=1)], dim=1)
    assert (got - expected).norm() < 0.05 * expected.norm()
    assert (cached - expected).norm() < 0.05 * expected.norm()


def test_bad_configurations_are_refused():
    with pytest.raises(ConfigError, match="dropout"):
        replace(CONFIG, dropout=1.0)
    with pytest.raises(ConfigError, match="one block"):
        replace(CONFIG, depth=0)
    with pytest.raises(ConfigError, match="one pattern"):
        replace(CONFIG, patterns=())
