"""A memory that grows place by place, in a buffer with room to spare."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks.sequence.attention import Memory


class Cache(NamedTuple):
    """Projected places of sequences that are being written.

    :meth:`append` writes into the buffer where there is room, and into one twice as large where there is none, so
    that a step does not copy what all steps before it have left. A cache may therefore be appended to **once**: go on
    with what comes out. (:meth:`Memory.append` copies, and has no such rule.)

    Attributes:
        key: (B, …, capacity, D_k).
        value: (B, …, capacity, D_v).
        length: how many places are filled.

    Example:
        >>> import torch
        >>> cache = Cache.start(Memory(torch.ones(2, 1, 4), torch.ones(2, 1, 4)))
        >>> cache = cache.append(Memory(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)))
        >>> cache.memory.key[0, :, 0].tolist()
        [1.0, 0.0, 0.0, 0.0]
    """

    key: Tensor
    value: Tensor
    length: int

    @classmethod
    def start(cls, memory: Memory, capacity: int = 64) -> Cache:
        """A cache that holds a memory, and has room for more."""
        capacity = max(capacity, memory.key.size(-2))
        return cls(_grown(memory.key, 0, capacity), _grown(memory.value, 0, capacity), 0).append(memory)

    @property
    def memory(self) -> Memory:
        """The places that are filled, as a view."""
        return Memory(self.key[..., : self.length, :], self.value[..., : self.length, :])

    def append(self, later: Memory) -> Cache:
        """The cache with what comes later in the same sequences."""
        length = self.length + later.key.size(-2)
        key, value = self.key, self.value
        if length > key.size(-2):
            key, value = (_grown(part, self.length, 2 * length) for part in (key, value))
        key[..., self.length : length, :] = later.key
        value[..., self.length : length, :] = later.value
        return Cache(key, value, length)

    def select(self, places: Tensor, room: int = 0) -> Cache:
        """A cache of some of the places only; this one stays as it is.

        Args:
            places: (B, S) int64, which places of each sequence, in their new order.
            room: for so many later ones.
        """
        padded = F.pad(places, (0, room))
        return Cache(_picked(self.key, padded), _picked(self.value, padded), places.size(1))


def _grown(part: Tensor, length: int, capacity: int) -> Tensor:
    larger = part.new_empty(*part.shape[:-2], capacity, part.size(-1))
    larger[..., :length, :] = part[..., :length, :]
    return larger


def _picked(part: Tensor, places: Tensor) -> Tensor:
    *lead, capacity, features = part.shape
    # Whole rows by their number are copied much faster than feature by feature.
    groups = part.numel() // (len(places) * capacity * features) if len(places) else 1
    first = torch.arange(len(places) * groups, device=part.device)[:, None] * capacity
    rows = first + places.repeat_interleave(groups, dim=0)
    return part.reshape(-1, features).index_select(0, rows.flatten()).view(*lead, places.size(1), features)
