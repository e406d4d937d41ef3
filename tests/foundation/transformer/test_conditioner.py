import pytest
import torch

from sonido_bench.foundation.transformer.conditioner import TokenConditioner


@pytest.mark.parametrize("ratio", [1, 2, 3, 4])
@pytest.mark.parametrize("frames", [1, 6])
def test_every_frame_above_becomes_ratio_frames(ratio, frames):
    conditioner = TokenConditioner(3, 5, ratio, width=12, conv_width=8, depth=3)
    out = conditioner(torch.randint(5, (2, frames, 3)))
    assert out.shape == (2, frames * ratio, 12)
    assert torch.allclose(out.mean(-1), torch.zeros(2, frames * ratio), atol=1e-5)


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_frames_stay_where_they_are(ratio):
    torch.manual_seed(0)
    conditioner = TokenConditioner(1, 5, ratio, width=4, conv_width=8, depth=0)
    tokens = torch.zeros(1, 41, 1, dtype=torch.long)
    changed = tokens.clone()
    changed[0, 20] = 1
    moved = (conditioner(changed) - conditioner(tokens)).abs().sum(-1)[0].nonzero().flatten()
    # the convolution reaches one frame to either side, the transposed one half a frame more
    assert moved.min() == 19 * ratio - ratio // 2
    assert moved.max() == 22 * ratio - 1 + ratio // 2


def test_dilations_grow_and_start_again():
    conditioner = TokenConditioner(1, 5, 2, width=4, conv_width=4, depth=10)
    dilations = [block.dilated.dilation[0] for block in conditioner.blocks]
    assert dilations == [1, 3, 9, 27, 81, 243, 729, 2187, 1, 3]
