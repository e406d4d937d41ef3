import pytest
import torch
from torch.nn import functional

from sonido_bench.nn.temporal_conv import TemporalConv


@pytest.mark.parametrize("kernel_size", [1, 3, 9])
def test_equals_a_one_dimensional_convolution(kernel_size):
    conv = TemporalConv(5, 7, kernel_size)
    frames = torch.randn(2, 11, 5)
    expected = functional.conv1d(
        frames.transpose(1, 2), conv.conv.weight.squeeze(2), conv.conv.bias, padding=kernel_size // 2
    )
    assert torch.allclose(conv(frames), expected.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("kernel_size", [0, 2, -1])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match="odd and positive"):
        TemporalConv(5, 7, kernel_size)
