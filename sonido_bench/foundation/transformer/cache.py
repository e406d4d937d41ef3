"""Keys and values of what was read already, so that a transformer can go on from there."""

import torch
from torch import Tensor

__all__ = ["KVCache", "LayerCache"]


class LayerCache:
    """The keys and values of one attention that later positions may still ask for.

    Attributes:
        start: Position of the first one kept; what came before has been forgotten.
        length: Number kept.
        position: Number read so far, kept or not.
        expected: Positions that will be read in all, 0 if unknown: what keeps them all makes room for them at once.
    """

    def __init__(self, expected: int = 0) -> None:
        self.start = 0
        self.length = 0
        self.position = 0
        self.expected = expected
        self._buffers: tuple[Tensor, Tensor] | None = None

    @property
    def kept(self) -> tuple[Tensor, Tensor]:
        """Return keys and values from position ``start`` on; views, valid until the next change.

        Raises:
            ValueError: If nothing was ever read.
        """
        if self._buffers is None:
            raise ValueError("nothing is kept yet: append keys and values first")
        keys, values = self._buffers
        return keys[:, : self.length], values[:, : self.length]

    def append(self, keys: Tensor, values: Tensor, room: int = 0) -> tuple[Tensor, Tensor]:
        """Keep more, and return all that is kept.

        Args:
            keys: ``(batch, positions, heads, head_dim)``.
            values: Likewise.
            room: Positions that a new buffer holds at least.

        Returns:
            Keys and values from position ``start`` on; views, valid until the next call.
        """
        end = self.length + keys.shape[1]
        kept = self._buffers or (keys[:, :0], values[:, :0])
        if kept[0].shape[1] < end:
            size = max(2 * self.length, end, room)
            kept = _moved(kept[0][:, : self.length], size), _moved(kept[1][:, : self.length], size)
        for buffer, new in zip(kept, (keys, values), strict=True):
            buffer[:, self.length : end] = new.detach()
        self._buffers = kept
        self.length = end
        self.position += keys.shape[1]
        return kept[0][:, :end], kept[1][:, :end]

    def skip(self, positions: int) -> None:
        """Count positions as read whose keys nobody will ask for, and which are not kept."""
        self.position += positions

    def forget(self, before: int, room: int = 0) -> None:
        """Let go of all positions before one.

        Args:
            before: The first position to keep.
            room: A buffer for no more positions than this is used again; a larger one is given back.
        """
        surplus = min(before - self.start, self.length)
        if surplus <= 0 or self._buffers is None:
            return
        size = self.length - surplus
        left = [buffer[:, surplus : self.length] for buffer in self._buffers]
        if self._buffers[0].shape[1] > room:
            self._buffers = _moved(left[0], max(size, room)), _moved(left[1], max(size, room))
        elif size:
            for buffer, part in zip(self._buffers, left, strict=True):
                buffer[:, :size] = part.clone()  # the two may overlap
        self.start, self.length = self.start + surplus, size


class KVCache:
    """What every block of a transformer has read so far; a fresh one for every sequence.

    Args:
        depth: Blocks of the transformer.
        expected: Positions that will be read in all, if known: saves growing.
    """

    def __init__(self, depth: int, expected: int = 0) -> None:
        self.layers = [LayerCache(expected) for _ in range(depth)]

    @property
    def position(self) -> int:
        """Return the number of positions read so far."""
        return self.layers[0].position


def _moved(kept: Tensor, size: int) -> Tensor:
    """Return a buffer of a size that begins with what is kept."""
    batch, length, heads, head_dim = kept.shape
    buffer = torch.empty(batch, size, heads, head_dim, dtype=kept.dtype, device=kept.device)
    buffer[:, :length] = kept.detach()
    return buffer
