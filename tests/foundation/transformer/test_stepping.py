import pytest
import torch

from sonido_bench.foundation.transformer.cache import KVCache
from sonido_bench.foundation.transformer.stepping import Stepper, read_prompt
from sonido_bench.foundation.transformer.transformer import Transformer, TransformerConfig

LENGTH = 29  # six rows and a part of one


def model(*patterns, **changes):
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "attention_width": 8, "mlp_width": 24, "block_length": 5, "prime_length": 12}
    built = Transformer(TransformerConfig(depth=len(patterns), patterns=patterns, **sizes, **changes)).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return built


@torch.no_grad()
def stepped(transformer, hidden, prompt, context=None):
    """All positions: a prompt at once, the rest one by one."""
    cache = KVCache(transformer.config.depth)
    outputs = [transformer(hidden[:, :prompt], cache=cache, context=context)]
    stepper = Stepper(transformer, cache, hidden.shape[1])
    assert stepper.position == prompt
    outputs += [stepper(hidden[:, position]).unsqueeze(1) for position in range(prompt, hidden.shape[1])]
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("pattern", ["row", "column", "previous_row", "prime", "dense", "cross"])
@pytest.mark.parametrize("prompt", [1, 4, 5, 6, 10, 12, 13, 28])
@torch.no_grad()
def test_steps_are_the_whole(pattern, prompt):
    transformer, hidden = model(pattern, pattern), torch.randn(3, LENGTH, 16)
    context = torch.randn(3, 7, 16) if pattern == "cross" else None
    whole = transformer(hidden, context=context)
    assert torch.allclose(stepped(transformer, hidden, prompt, context), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@torch.no_grad()
def test_patterns_alternate(activation):
    transformer = model("row", "column", "previous_row", "dense", "prime", activation=activation)
    hidden = torch.randn(2, LENGTH, 16)
    assert torch.allclose(stepped(transformer, hidden, 8), transformer(hidden), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [None, 1, 4, 17])
@torch.no_grad()
def test_a_prompt_is_continued_however_it_is_read(chunk):
    transformer, hidden = model("row", "column", "cross", "previous_row"), torch.randn(2, LENGTH, 16)
    context = torch.randn(2, 7, 16)
    last, stepper = read_prompt(transformer, hidden[:, :17], LENGTH, context, chunk)
    assert stepper.position == 17
    found = torch.stack([last, *(stepper(hidden[:, position]) for position in range(17, LENGTH))], dim=1)
    assert torch.allclose(found, transformer(hidden, context=context)[:, 16:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_only_what_is_needed_is_held():
    """Rows of 5: one row, two rows, all rows; 12 of the prime."""
    transformer, hidden = model("row", "previous_row", "column", "prime"), torch.randn(1, LENGTH, 16)
    cache = KVCache(4)
    transformer(hidden[:, :20], cache=cache)
    stepper = Stepper(transformer, cache, LENGTH)
    assert [step._buffer.shape[3] for _, step in stepper._steps] == [5, 10, 30, 12]


def test_nothing_read_is_refused():
    with pytest.raises(ValueError, match="nothing is kept yet"):
        Stepper(model("dense"), KVCache(1), 4)
