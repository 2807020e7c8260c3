"""Key-value cache for decoding: a memory that grows in a buffer with spare room."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks.sequence.attention import Memory


class Cache(NamedTuple):
    """Key-value cache of sequences that are being generated.

    :meth:`append` writes into the buffer if there is room, and otherwise copies it into one twice as large, so that
    most steps copy nothing. Therefore append **once** to each cache, and continue with the returned one.
    (:meth:`Memory.append` always copies and has no such restriction.)

    Attributes:
        key: (B, …, capacity, D_k).
        value: (B, …, capacity, D_v).
        length: number of filled entries.

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
        """Creates a cache that holds a copy of a memory.

        Args:
            memory: keys, (B, …, T, D_k), and values, (B, …, T, D_v).
            capacity: number of entries that the buffer has room for, at least T.
        """
        capacity = max(capacity, memory.key.size(-2))
        return cls(_grown(memory.key, 0, capacity), _grown(memory.value, 0, capacity), 0).append(memory)

    @property
    def memory(self) -> Memory:
        """The filled entries, as a view."""
        return Memory(self.key[..., : self.length, :], self.value[..., : self.length, :])

    def append(self, later: Memory) -> Cache:
        """Appends later entries of the same sequences.

        Args:
            later: keys, (B, …, T, D_k), and values, (B, …, T, D_v).

        Returns:
            The longer cache, which replaces this one.
        """
        length = self.length + later.key.size(-2)
        key, value = self.key, self.value
        if length > key.size(-2):
            key, value = (_grown(part, self.length, 2 * length) for part in (key, value))
        key[..., self.length : length, :] = later.key
        value[..., self.length : length, :] = later.value
        return Cache(key, value, length)

    def select(self, entries: Tensor, room: int = 0) -> Cache:
        """Copies some of the entries into a new cache.

        Args:
            entries: (B, S) int64, indices of the entries of each sequence, in their new order.
            room: number of later entries to leave room for.

        Returns:
            A cache of length S; this one is unchanged.
        """
        padded = F.pad(entries, (0, room))  # (B, S + room)
        return Cache(_gathered(self.key, padded), _gathered(self.value, padded), entries.size(1))


def _grown(part: Tensor, length: int, capacity: int) -> Tensor:
    larger = part.new_empty(*part.shape[:-2], capacity, part.size(-1))  # (B, …, capacity, D)
    larger[..., :length, :] = part[..., :length, :]
    return larger


def _gathered(part: Tensor, entries: Tensor) -> Tensor:
    *lead, capacity, features = part.shape
    # Copying whole rows by index is much faster than gathering single features.
    groups = part.numel() // (len(entries) * capacity * features) if len(entries) else 1  # N, or 1 without heads
    first = torch.arange(len(entries) * groups, device=part.device)[:, None] * capacity  # (B * N, 1)
    rows = first + entries.repeat_interleave(groups, dim=0)  # (B * N, S)
    return part.reshape(-1, features).index_select(0, rows.flatten()).view(*lead, entries.size(1), features)
