"""Relative positions of T5: a learned bias for each head and each bucket of distances."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf


def bucket_edges(num_buckets: int, max_distance: int) -> list[int]:
    """Smallest distance in each bucket except the first, which starts at 0.

    The first half of the buckets holds one distance each; the sizes of the others grow geometrically up to
    ``max_distance``, and the last one also holds all larger distances. Computed with integers, so that no rounding of
    a logarithm moves an edge.

    Args:
        num_buckets: number of buckets, 2 or more.
        max_distance: distance at which the geometric growth ends.

    Returns:
        ``num_buckets - 1`` distances in ascending order.

    Example:
        >>> bucket_edges(8, 32)
        [1, 2, 3, 4, 7, 12, 20]
    """
    exact = num_buckets // 2
    growing = num_buckets - exact
    edges = list(range(1, exact + 1))
    distance = exact
    for step in range(1, growing):
        # distance < exact · (max_distance / exact)^(step / growing), without roots and fractions.
        while distance**growing * exact**step < max_distance**step * exact**growing:
            distance += 1
        edges.append(distance)
    return edges


class RelativePositionBias(nn.Module):
    """Learned bias on the scores that depends on the head and the distance between query and key.

    :class:`MultiHeadAttention` creates it from its number of heads:
    ``MultiHeadAttention(64, score_bias=RelativePositionBias)``. T5 has one bias for all its layers: give each of them
    the same module, ``score_bias=lambda num_heads: shared``.

    Args:
        num_heads: N.
        num_buckets: number of learned values per head.
        max_distance: all distances from this one on fall into the last bucket.
        bidirectional: use half of the buckets for later keys. Otherwise all buckets are for earlier keys, and later
            keys, which a decoder masks, count as distance 0.

    Attributes:
        table: (num_buckets, N), drawn from a truncated normal distribution of standard deviation 0.02.

    Raises:
        ValueError: ``num_heads``, ``num_buckets`` or ``max_distance`` is too small, or ``num_buckets`` is odd for
            both directions.

    References:
        Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
        section 2.1.

    Example:
        >>> bias = RelativePositionBias(num_heads=8)
        >>> bias(3, 5).shape
        torch.Size([8, 3, 5])
    """

    def __init__(
        self, num_heads: int, *, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"num_heads must be 1 or more, got {num_heads}")
        if num_buckets < 2 or (bidirectional and (num_buckets < 4 or num_buckets % 2)):
            least = "an even number from 4 on for both directions" if bidirectional else "2 or more"
            raise ValueError(f"num_buckets must be {least}, got {num_buckets}")
        one_way = num_buckets // 2 if bidirectional else num_buckets
        if max_distance <= one_way // 2:
            raise ValueError(
                f"max_distance ({max_distance}) must exceed {one_way // 2}, the distances with a bucket each; "
                "raise it or lower num_buckets"
            )
        self.bidirectional = bidirectional
        self.max_distance = max_distance
        self.table = nn.Parameter(torch.empty(num_buckets, num_heads))
        self.edges = bucket_edges(one_way, max_distance)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws a new table."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that an optimiser should not decay: the table."""
        return {"table"}

    def forward(
        self, query_length: int, key_length: int, *, offset: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """Bias to add to the scores.

        Args:
            query_length: T_q.
            key_length: T_k.
            offset: position of the first query; the first key is at position 0.
            device: ignored; the bias is on the table's device.

        Returns:
            (N, T_q, T_k).
        """
        return _bias(self.table, self.edges, self.bidirectional, query_length, key_length, offset)

    def extra_repr(self) -> str:
        """Shows the sizes in the printed module."""
        buckets, heads = self.table.shape
        return f"{heads}, num_buckets={buckets}, max_distance={self.max_distance}, bidirectional={self.bidirectional}"


@leaf
def _bias(table: Tensor, edges: list[int], bidirectional: bool, queries: int, keys: int, offset: int) -> Tensor:
    device = table.device
    ahead = torch.arange(keys, device=device) - (torch.arange(queries, device=device) + offset)[:, None]  # (T_q, T_k)
    distance = ahead.abs() if bidirectional else (-ahead).clamp(min=0)
    bucket = torch.bucketize(distance, torch.tensor(edges, device=device), right=True)
    if bidirectional:
        bucket = bucket + (ahead > 0) * (table.size(0) // 2)
    return table[bucket].permute(2, 0, 1)  # (N, T_q, T_k)
