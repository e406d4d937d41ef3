"""Keys and values of what was read already, so that a transformer can go on from there."""

import torch
from torch import Tensor

__all__ = ["KVCache", "LayerCache"]


class LayerCache:
    """The keys and values of one attention that later positions may still ask for.

    Attributes:
        start: Position of the first one kept; what came before has been forgotten.
        length: Number kept.
    """

    def __init__(self) -> None:
        self.start = 0
        self.length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    @property
    def position(self) -> int:
        """Return the number of positions read so far."""
        return self.start + self.length

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep more, and return all that is kept.

        Args:
            keys: ``(batch, positions, heads, head_dim)``.
            values: Likewise.

        Returns:
            Keys and values from position ``start`` on; views, valid until the next call.
        """
        end = self.length + keys.shape[1]
        kept = self._buffers or (keys[:, :0], values[:, :0])
        if kept[0].shape[1] < end:
            kept = _grown(kept[0], self.length, end), _grown(kept[1], self.length, end)
        for buffer, new in zip(kept, (keys, values), strict=True):
            buffer[:, self.length : end] = new.detach()
        self._buffers = kept
        self.length = end
        return kept[0][:, :end], kept[1][:, :end]

    def forget(self, before: int) -> None:
        """Free the memory of all positions before one."""
        surplus = min(before - self.start, self.length)
        if surplus > 0 and self._buffers is not None:
            keys, values = self._buffers
            self._buffers = keys[:, surplus : self.length].clone(), values[:, surplus : self.length].clone()
            self.start, self.length = self.start + surplus, self.length - surplus


class KVCache:
    """What every block of a transformer has read so far; a fresh one for every sequence.

    Args:
        depth: Blocks of the transformer.
    """

    def __init__(self, depth: int) -> None:
        self.layers = [LayerCache() for _ in range(depth)]

    @property
    def position(self) -> int:
        """Return the number of positions read so far."""
        return self.layers[0].position


def _grown(buffer: Tensor, length: int, needed: int) -> Tensor:
    """Return a buffer of twice the size, or what is needed, that begins with the old one's content."""
    batch, _, heads, head_dim = buffer.shape
    larger = torch.empty(batch, max(2 * length, needed), heads, head_dim, dtype=buffer.dtype, device=buffer.device)
    larger[:, :length] = buffer[:, :length].detach()
    return larger
