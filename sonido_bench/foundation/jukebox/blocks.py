"""Convolutions of Jukebox's autoencoders: dilated residual blocks, and what halves and doubles rates around them."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Decoder", "DecoderBlock", "Encoder", "EncoderBlock", "ResidualBlock", "Resnet1D"]


class ResidualBlock(nn.Module):
    """ReLU, dilated convolution of 3, ReLU, 1x1 convolution, around a skip connection.

    Args:
        width: Channels.
        dilation: Of the first convolution, and the block's reach in frames.
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.pointwise = nn.Conv1d(width, width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``(batch, width, frames)`` to the same shape."""
        added: Tensor = self.pointwise(F.relu(self.dilated(F.relu(hidden))))
        return hidden + added


class Resnet1D(nn.Module):
    """A row of residual blocks whose dilations grow geometrically: 1, 3, 9, 27 ... for a growth of 3.

    Args:
        width: Channels.
        depth: Blocks.
        growth: Of the dilation from block to block.
        cycle: Blocks after which the dilation starts again at 1; ``None``: never.
        reverse: Whether the largest dilation comes first, as in decoders.

    Attributes:
        reach: Frames before and after that an output frame sees.
    """

    def __init__(self, width: int, depth: int, growth: int, cycle: int | None = None, reverse: bool = False) -> None:
        super().__init__()
        dilations = [growth ** (index if cycle is None else index % cycle) for index in range(depth)]
        if reverse:
            dilations.reverse()
        self.reach = sum(dilations)
        self.blocks = nn.ModuleList(ResidualBlock(width, dilation) for dilation in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``(batch, width, frames)`` to the same shape."""
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class _Down(nn.Module):
    """A strided convolution, then residual blocks; the length is divided by the stride exactly."""

    def __init__(self, channels_in: int, width: int, stride: int, resnet: Resnet1D) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, width, 2 * stride, stride, padding=stride // 2)
        self.resnet = resnet

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.resnet(self.conv(hidden))
        return out


class _Up(nn.Module):
    """Residual blocks, then a transposed convolution; the length is multiplied by the stride exactly."""

    def __init__(self, width: int, channels_out: int, stride: int, resnet: Resnet1D) -> None:
        super().__init__()
        self.resnet = resnet
        self.conv = nn.ConvTranspose1d(width, channels_out, 2 * stride, stride, padding=stride // 2)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.conv(self.resnet(hidden))
        return out


class EncoderBlock(nn.Module):
    """One level's share of an encoder: ``downs`` strided convolutions with residual blocks, and a projection.

    Args:
        channels_in: Channels before.
        width: Channels within.
        channels_out: Channels after.
        downs: Times that the rate is divided.
        stride: By what, each time; even.
        depth: Residual blocks after each strided convolution.
        growth: Of their dilation.
        cycle: Of their dilation; ``None``: it grows throughout.

    Attributes:
        hop: Input frames of one output frame.
        reach: Input frames, at most, before and after an output frame's own ones that it sees.
    """

    def __init__(
        self,
        channels_in: int,
        width: int,
        channels_out: int,
        downs: int,
        stride: int,
        depth: int,
        growth: int,
        cycle: int | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        self.hop, self.reach = 1, 0
        for _ in range(downs):
            resnet = Resnet1D(width, depth, growth, cycle)
            self.down.append(_Down(channels_in, width, stride, resnet))
            self.reach += self.hop * (stride // 2)
            self.hop *= stride
            self.reach += self.hop * resnet.reach
            channels_in = width
        self.project = nn.Conv1d(width, channels_out, 3, padding=1)
        self.reach += self.hop

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``(batch, channels_in, frames)`` to ``(batch, channels_out, frames // hop)``."""
        for down in self.down:
            hidden = down(hidden)
        out: Tensor = self.project(hidden)
        return out


class DecoderBlock(nn.Module):
    """One level's share of a decoder, the mirror image of ``EncoderBlock``.

    Args:
        channels_in: Channels before.
        width: Channels within.
        channels_out: Channels after.
        ups: Times that the rate is multiplied.
        stride: By what, each time; even.
        depth: Residual blocks before each transposed convolution.
        growth: Of their dilation.
        cycle: Of their dilation; ``None``: it grows throughout.
        reverse: Whether the largest dilation comes first.
    """

    def __init__(
        self,
        channels_in: int,
        width: int,
        channels_out: int,
        ups: int,
        stride: int,
        depth: int,
        growth: int,
        cycle: int | None = None,
        reverse: bool = True,
    ) -> None:
        super().__init__()
        self.project = nn.Conv1d(channels_in, width, 3, padding=1)
        self.up = nn.ModuleList()
        for index in range(ups):
            resnet = Resnet1D(width, depth, growth, cycle, reverse)
            self.up.append(_Up(width, channels_out if index == ups - 1 else width, stride, resnet))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``(batch, channels_in, frames)`` to ``(batch, channels_out, frames * stride ** ups)``."""
        hidden = self.project(hidden)
        for up in self.up:
            hidden = up(hidden)
        return hidden


class Encoder(nn.Module):
    """Level blocks from the waveform up, one feeding the next.

    Args:
        blocks: Of levels 0, 1 ...

    Attributes:
        hop: Samples of a frame of the last level.
        reach: Samples, at most, before and after a frame's own ones that it depends on.
    """

    def __init__(self, blocks: Sequence[EncoderBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.hop, self.reach = 1, 0
        for block in blocks:
            self.reach += self.hop * block.reach
            self.hop *= block.hop

    def forward(self, audio: Tensor) -> list[Tensor]:
        """Map ``(batch, 1, samples)`` to what each level block gives, ``(batch, code_dim, frames)``, level 0 first."""
        outputs, hidden = [], audio
        for block in self.blocks:
            hidden = block(hidden)
            outputs.append(hidden)
        return outputs


class Decoder(nn.Module):
    """Level blocks from some level down to the waveform, one feeding the next.

    Args:
        blocks: Of levels 0, 1 ...
        code_dim: Channels between the blocks.
    """

    def __init__(self, blocks: Sequence[DecoderBlock], code_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.out = nn.Conv1d(code_dim, 1, 3, padding=1)

    def forward(self, codes: Sequence[Tensor]) -> Tensor:
        """Decode the codes of the highest level; lower ones are added on the way where they are given.

        Args:
            codes: ``(batch, code_dim, frames)`` of each level, level 0 first; or of the highest level alone.

        Returns:
            ``(batch, 1, samples)``.
        """
        hidden = codes[-1]
        for level in reversed(range(len(self.blocks))):
            hidden = self.blocks[level](hidden)
            if level and len(codes) > 1:
                hidden = hidden + codes[level - 1]
        audio: Tensor = self.out(hidden)
        return audio
