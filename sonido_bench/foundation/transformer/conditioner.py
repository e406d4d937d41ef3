"""What the tokens of a coarser level say at every position of a finer one."""

from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.foundation.transformer.token_embedding import TokenEmbedding

__all__ = ["ResidualConv", "TokenConditioner"]

_DILATION_GROWTH, _DILATION_CYCLE = 3, 8  # Jukebox's


class TokenConditioner(nn.Module):
    """Embeds the tokens above, looks at their surroundings, and gives them the finer level's rate.

    An embedding, a convolution, residual dilated convolutions, a transposed convolution and LayerNorm, as in Dhariwal
    et al. (2020), Jukebox, section 4.2. It sees tokens to both sides: the level above is known in full.

    Args:
        codebooks: Codes of a position above.
        codebook_size: Codes of a codebook above.
        ratio: Frames of the finer level in one frame above.
        width: Of its output.
        conv_width: Channels of the convolutions.
        depth: Residual convolutions; their dilation is 1, 3, 9, ... and starts again at 1 after 8 of them.
    """

    def __init__(self, codebooks: int, codebook_size: int, ratio: int, width: int, conv_width: int, depth: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.embedding = TokenEmbedding(codebooks, codebook_size, conv_width)
        self.conv_in = nn.Conv1d(conv_width, conv_width, kernel_size=3, padding=1)
        dilations = [_DILATION_GROWTH ** (index % _DILATION_CYCLE) for index in range(depth)]
        self.blocks = nn.Sequential(*(ResidualConv(conv_width, dilation) for dilation in dilations))
        # kernel - 2 * padding == ratio, so that n frames become n * ratio; for ratio 2 these are Jukebox's 4 and 1
        self.upsample = nn.ConvTranspose1d(
            conv_width, width, kernel_size=ratio + 2 * (ratio // 2), stride=ratio, padding=ratio // 2
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(batch, frames * ratio, width)`` from the tokens above, ``(batch, frames, codebooks)``."""
        hidden = self.conv_in(self.embedding(tokens).transpose(1, 2))
        normalised: Tensor = self.norm(self.upsample(self.blocks(hidden)).transpose(1, 2))
        return normalised


class ResidualConv(nn.Module):
    """A dilated and a pointwise convolution, whose output is added.

    Args:
        width: Channels.
        dilation: Of the first, which reads three frames.
        scale: Of what is added.
    """

    def __init__(self, width: int, dilation: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.dilated = nn.Conv1d(width, width, kernel_size=3, dilation=dilation, padding=dilation)
        self.mix = nn.Conv1d(width, width, kernel_size=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``(batch, width, frames)`` from the same."""
        mixed: Tensor = self.mix(F.relu(self.dilated(F.relu(hidden))))
        return hidden + mixed if self.scale == 1.0 else hidden + self.scale * mixed
