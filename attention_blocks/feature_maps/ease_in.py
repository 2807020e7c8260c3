"""Another block, brought into a trained network without a jolt."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, check_map


class EaseIn(FeatureMapAttention):
    """Mixes a map with what a block makes of it, by a learned share that starts at zero: at first, nothing changes.

    ::

        (B, C, H, W) ─┬─ block ─ x share ────────┐
                      └───────── x (1 - share) ──┴─ + ─▶ (B, C, H, W)

    A block that multiplies by its gate multiplies by 1 + share · (gate - 1): a gate that opens at 1.

    Args:
        channels: C.
        block: made as ``block(channels)``; any that gives back the shape that it takes.

    Attributes:
        share: the learned share, (1,).
        block: what was made.

    References:
        The scale that starts at zero is Bachlechner et al. 2021's, "ReZero is All You Need".

    Example:
        >>> from attention_blocks import SqueezeExcite
        >>> eased, x = EaseIn(32, SqueezeExcite), torch.randn(2, 32, 7, 7)
        >>> torch.equal(eased(x), x)
        True
    """

    def __init__(self, channels: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__(channels)
        self.block = block(channels)
        self.share = nn.Parameter(torch.zeros(1))

    def gate(self, x: Tensor) -> Tensor:
        """The block's gate, as far as it is let in; for blocks that have one and multiply by it."""
        return 1 + self.share.to(x.dtype) * (self._attention().gate(x) - 1)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The block's own gates, named with the share of them that is let in."""
        return {f"{name}, {self.share.item():.0%} of it": gate for name, gate in self._attention().gates(x).items()}

    def _attention(self) -> FeatureMapAttention:
        if not isinstance(self.block, FeatureMapAttention):
            raise TypeError(f"{type(self.block).__name__} has no gate; only a FeatureMapAttention has")
        return self.block

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`FeatureMapAttention.forward`."""
        check_map(x, self.channels)
        return x + self.share.to(x.dtype) * (self.block(x) - x)
