"""A feature map that attends to itself: every place looks at every other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, check_map
from attention_blocks.sequence import MultiHeadAttention


class SelfAttention2d(FeatureMapAttention):
    """Adds to each place what it finds by looking at all places, by a learned scale that starts at zero.

    ::

        (B, C, H, W) ┬─ query, key and value: 1 x 1 ─ multi-head attention over H · W places ─ 1 x 1 ─ x scale ─ + ─▶
                     └─────────────────────────────────────────────────────────────────────────────────────────┘

    Memory is linear in the places: the scores are never written out. With ``key_pool`` the keys and values are means
    over squares of so many places each way, and the time falls by its square.

    Args:
        channels: C.
        num_heads: N.
        head_dim: features of a head; C / 8 over all heads when left out, as the authors have for query and key.
        key_pool: side of the squares of places that are one key; 1 keeps each place.

    Attributes:
        scale: the learned scale, (1,).

    Raises:
        ValueError: a size is not positive, or nothing is left of C / 8 for each head.

    References:
        Wang et al. 2018, "Non-local Neural Networks"; Zhang et al. 2019, "Self-Attention Generative Adversarial
        Networks", whose scale it is. Scores are divided by the root of ``head_dim``, which theirs are not.

    Example:
        >>> import torch
        >>> block, x = SelfAttention2d(channels=32), torch.randn(2, 32, 7, 7)
        >>> torch.equal(block(x), x), block.gate(x).shape
        (True, torch.Size([2, 1, 7, 7]))
    """

    def __init__(self, channels: int, num_heads: int = 1, *, head_dim: int | None = None, key_pool: int = 1) -> None:
        super().__init__(channels)
        if key_pool < 1:
            raise ValueError(f"key_pool must be a positive number of places, got {key_pool}")
        if num_heads < 1:
            raise ValueError(f"num_heads must be a positive number, got {num_heads}")
        if head_dim is None:
            head_dim = channels // 8 // num_heads
            if head_dim < 1:
                raise ValueError(
                    f"nothing is left of channels / 8 for each head, with channels={channels} and "
                    f"num_heads={num_heads}; say head_dim"
                )
        self.key_pool = key_pool
        self.attention = MultiHeadAttention(channels, num_heads=num_heads, head_dim=head_dim)
        self.scale = nn.Parameter(torch.zeros(1))

    def gate(self, x: Tensor) -> Tensor:
        """(B, 1, H, W), how much each place is looked at, 1 in the mean of all; for plots, in quadratic memory."""
        received = self.weights(x).mean(dim=(1, 2))
        keys = [-(-side // self.key_pool) for side in x.shape[2:]]
        received = (received * received.size(-1)).view(x.size(0), 1, *keys)
        return F.interpolate(received, size=x.shape[2:], mode="nearest")

    def weights(self, x: Tensor) -> Tensor:
        """The attention maps, (B, N, H · W, places that are keys)."""
        places, keys = self._sequences(x)
        weights = self.attention(places, keys, need_weights=True).weights
        assert weights is not None  # noqa: S101 (asked for)
        return weights

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`FeatureMapAttention.forward`."""
        check_map(x, self.channels)
        places, keys = self._sequences(x)
        found = self.attention(places, keys).context
        return x + self.scale.to(found.dtype) * found.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    def _sequences(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The places that ask, (B, H · W, C), and those that are asked."""
        places = x.flatten(2).transpose(1, 2)
        if self.key_pool == 1:
            return places, places
        pooled = F.avg_pool2d(x, self.key_pool, ceil_mode=True)
        return places, pooled.flatten(2).transpose(1, 2)
