"""Attention blocks that a user brings, for the tests that any attention fits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_blocks import Attention, AttentionOutput, Memory, masked_softmax


class NearbyAttention(Attention):
    """Scores keys by a product with the query, less their distance from the query's position."""

    def __init__(self, query_dim: int, key_dim: int | None = None) -> None:
        super().__init__(query_dim, key_dim)
        self.query_proj = nn.Linear(query_dim, self.key_dim)

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        return Memory(key, key if value is None else value)

    def attend(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        queries = torch.arange(offset, offset + query.size(1), device=query.device)
        keys = torch.arange(memory.key.size(1), device=query.device)
        scores = self.query_proj(query) @ memory.key.transpose(1, 2) - 0.3 * (queries[:, None] - keys).abs()
        weights = masked_softmax(scores, mask)
        return AttentionOutput(weights.to(memory.value.dtype) @ memory.value, weights if need_weights else None)


class DistanceAttention(Attention):
    """Without heads: the smaller the distance between a key's features and the query's, the larger its weight."""

    def __init__(self, query_dim: int, key_dim: int, sharpness: float = 1.0) -> None:
        super().__init__(query_dim, key_dim)
        self.sharpness = sharpness
        self.key_proj = nn.Linear(key_dim, query_dim)

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        return Memory(self.key_proj(key), key if value is None else value)

    def attend(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        weights = masked_softmax(-self.sharpness * torch.cdist(query, memory.key), mask)
        return AttentionOutput(weights @ memory.value, weights if need_weights else None)
