import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.transformer.sampling import SamplingConfig, sample_logits

PROBABILITIES = torch.tensor([0.05, 0.5, 0.15, 0.3])


def frequencies(**options):
    logits = PROBABILITIES.log().expand(200, 100, 4)
    drawn = sample_logits(logits, generator=torch.Generator().manual_seed(0), **options)
    assert drawn.shape == (200, 100)
    return torch.bincount(drawn.flatten(), minlength=4) / drawn.numel()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.05, 0.5, 0.15, 0.3]),
        ({"temperature": 0.5}, [0.0068, 0.6849, 0.0616, 0.2466]),
        ({"temperature": 0}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 0.625, 0, 0.375]),
        ({"top_k": 9}, [0.05, 0.5, 0.15, 0.3]),
        ({"top_p": 0.7}, [0, 0.625, 0, 0.375]),
        ({"top_p": 0.4}, [0, 1, 0, 0]),
        ({"top_p": 1e-6}, [0, 1, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [0, 0.625, 0, 0.375]),
    ],
)
def test_codes_are_drawn_as_often_as_they_should(options, expected):
    assert torch.allclose(frequencies(**options), torch.tensor(expected, dtype=torch.float32), atol=0.012)


def test_generator_decides_alone():
    logits = torch.randn(3, 5, 7)
    draws = [sample_logits(logits, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p"),
        ({"guidance": -1.0}, "guidance"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**options)
