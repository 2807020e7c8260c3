"""Channel attention: the first half of CBAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, hidden
from attention_blocks.feature_maps.pooling import mean_of


class ChannelAttention(FeatureMapAttention):
    """Multiplies each channel by a gate computed from the means and maxima of all channels.

    ::

                     ┌─ mean over H and W ─┐
        (B, C, H, W) ┤                     ├─ linear C → C/r ─ ReLU ─ linear C/r → C ─ sum ─ sigmoid ─▶ (B, C, 1, 1)
                     └─ max over H and W ──┘

        gate = σ(MLP(mean(x)) + MLP(max(x))), with one MLP

    Args:
        channels: C.
        reduction: r; 16 in the authors' code.
        hidden_channels: C/r itself, instead of ``reduction``.
        divisor: round C/r to a multiple of this, at least one; 1 in timm. If omitted, r must divide C.
        bias: as in the authors' code; the paper's equation and timm have none.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``; a size is not positive.

    References:
        Woo et al. 2018, "CBAM: Convolutional Block Attention Module", section 3.

    Example:
        >>> import torch
        >>> ChannelAttention(channels=32).gate(torch.randn(2, 32, 7, 7)).shape
        torch.Size([2, 32, 1, 1])
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        "authors": {"down_proj": "mlp.1", "up_proj": "mlp.3"},
        "timm": {"down_proj": "fc1", "up_proj": "fc2"},
    }

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        hidden_channels: int | None = None,
        divisor: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(channels)
        width = hidden(channels, reduction, hidden_channels, divisor)
        self.down_proj = nn.Linear(channels, width, bias=bias)
        self.up_proj = nn.Linear(width, channels, bias=bias)

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, 1, 1), one value per channel."""
        pooled = torch.stack([mean_of(x, (2, 3)), x.amax((2, 3), keepdim=True)], dim=1).flatten(2)  # (B, 2, C)
        return self.up_proj(F.relu(self.down_proj(pooled))).sum(1).sigmoid()[:, :, None, None]
