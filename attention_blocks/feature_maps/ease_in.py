"""Inserts a block into a trained network without changing its output at first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, check_map


class EaseIn(FeatureMapAttention):
    """Mixes a feature map with the output of a block, by a learned scale that starts at zero.

    ::

        (B, C, H, W) ─┬─ block ─ x scale ────────┐
                      └───────── x (1 - scale) ──┴─ + ─▶ (B, C, H, W)

    If the block multiplies by a gate, the product is by 1 + scale · (gate - 1), which is 1 at first.

    Args:
        channels: C.
        block: creates the block, called as ``block(channels)``; any block that keeps the shape.

    Attributes:
        scale: the learned scale, (1,).
        block: the block.

    References:
        Bachlechner et al. 2021, "ReZero is All You Need" (the scale that starts at zero).

    Example:
        >>> from attention_blocks import SqueezeExcite
        >>> eased, x = EaseIn(32, SqueezeExcite), torch.randn(2, 32, 7, 7)
        >>> torch.equal(eased(x), x)
        True
    """

    def __init__(self, channels: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__(channels)
        self.block = block(channels)
        self.scale = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the scale to zero; the block keeps its weights."""
        nn.init.zeros_(self.scale)

    def gate(self, x: Tensor) -> Tensor:
        """Gate of the block, mixed with 1; for blocks that multiply by a gate.

        Args:
            x: (B, C, H, W).

        Raises:
            TypeError: the block is not a :class:`FeatureMapAttention`.
        """
        return 1 + self.scale.to(x.dtype) * (self._attention().gate(x) - 1)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Gates of the block itself, named with the fraction of each that is mixed in; see :meth:`gate`."""
        return {f"{name}, {self.scale.item():.0%} of it": gate for name, gate in self._attention().gates(x).items()}

    def _attention(self) -> FeatureMapAttention:
        if not isinstance(self.block, FeatureMapAttention):
            raise TypeError(f"{type(self.block).__name__} has no gate; only a FeatureMapAttention has")
        return self.block

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`FeatureMapAttention.forward`."""
        check_map(x, self.channels)
        return x + self.scale.to(x.dtype) * (self.block(x) - x)
