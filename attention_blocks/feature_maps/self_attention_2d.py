"""Self-attention of a feature map: every location attends to every other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, check_map
from attention_blocks.sequence import MultiHeadAttention


class SelfAttention2d(FeatureMapAttention):
    """Adds multi-head self-attention over all locations, times a learned scale that starts at zero.

    ::

        (B, C, H, W) ┬─ query, key and value: 1 x 1 ─ multi-head attention over H · W locations ─ 1 x 1 ─ x scale ─ + ─▶
                     └────────────────────────────────────────────────────────────────────────────────────────────┘

    The memory is linear in H · W, since the fused kernel does not store the scores. With ``key_pool`` keys and values
    are averaged over squares, which divides the computation by the area of a square.

    Args:
        channels: C.
        num_heads: N.
        head_dim: features of a head; defaults to C / 8 divided by N, the authors' size of queries and keys.
        key_pool: side length of the squares over which keys and values are averaged; 1 for no pooling.

    Attributes:
        scale: the learned scale, (1,).

    Raises:
        ValueError: a size is not positive, or C / 8 is too small for the number of heads.

    References:
        Wang et al. 2018, "Non-local Neural Networks"; Zhang et al. 2019, "Self-Attention Generative Adversarial
        Networks" (the scale). Unlike there, scores are divided by the square root of ``head_dim``.

    Example:
        >>> import torch
        >>> block, x = SelfAttention2d(channels=32), torch.randn(2, 32, 7, 7)
        >>> torch.equal(block(x), x), block.gate(x).shape
        (True, torch.Size([2, 1, 7, 7]))
    """

    def __init__(self, channels: int, num_heads: int = 1, *, head_dim: int | None = None, key_pool: int = 1) -> None:
        super().__init__(channels)
        if key_pool < 1:
            raise ValueError(f"key_pool must be a positive number, got {key_pool}")
        if num_heads < 1:
            raise ValueError(f"num_heads must be a positive number, got {num_heads}")
        if head_dim is None:
            head_dim = channels // 8 // num_heads
            if head_dim < 1:
                raise ValueError(
                    f"channels / 8 / num_heads is less than 1, with channels={channels} and "
                    f"num_heads={num_heads}; pass head_dim"
                )
        self.key_pool = key_pool
        self.attention = MultiHeadAttention(channels, num_heads=num_heads, head_dim=head_dim)
        self.scale = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the scale to zero."""
        nn.init.zeros_(self.scale)

    def gate(self, x: Tensor) -> Tensor:
        """Attention that each location receives, (B, 1, H, W), with mean 1; for plots, in memory quadratic in H · W."""
        received = self.weights(x).mean(dim=(1, 2))  # (B, keys)
        keys = [-(-side // self.key_pool) for side in x.shape[2:]]
        received = (received * received.size(-1)).view(x.size(0), 1, *keys)
        return F.interpolate(received, size=x.shape[2:], mode="nearest")

    def weights(self, x: Tensor) -> Tensor:
        """Attention maps, (B, N, H * W, keys)."""
        queries, keys = self._sequences(x)
        weights = self.attention(queries, keys, need_weights=True).weights
        assert weights is not None  # noqa: S101 (need_weights)
        return weights

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`FeatureMapAttention.forward`."""
        check_map(x, self.channels)
        queries, keys = self._sequences(x)
        context = self.attention(queries, keys).context  # (B, H * W, C)
        return x + self.scale.to(context.dtype) * context.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    def _sequences(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, (B, H * W, C), and keys, (B, H * W / key_pool², C)."""
        queries = x.flatten(2).transpose(1, 2)
        if self.key_pool == 1:
            return queries, queries
        pooled = F.avg_pool2d(x, self.key_pool, ceil_mode=True)
        return queries, pooled.flatten(2).transpose(1, 2)
