"""The second half of CBAM: which places count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, check_kernel_size
from attention_blocks.feature_maps.pooling import mean_of


class SpatialAttention(FeatureMapAttention):
    """Multiplies each place by a gate, computed from the maxima and means over the channels around it.

    ::

                     ┌─ max over channels ──┐
        (B, C, H, W) ┤                      ├─ convolution k x k, 2 → 1 ─ batch norm ─ sigmoid ─▶ (B, 1, H, W)
                     └─ mean over channels ─┘

    Args:
        channels: C; the weights do not depend on it.
        kernel_size: k; the authors' 7.

    Raises:
        ValueError: the kernel's size is even; a size is not positive.

    References:
        Woo et al. 2018, "CBAM: Convolutional Block Attention Module", section 3. The batch norm, and its slow
        momentum of 0.01, are the authors' code's.

    Example:
        >>> import torch
        >>> SpatialAttention(channels=32).gate(torch.randn(2, 32, 7, 7)).shape
        torch.Size([2, 1, 7, 7])
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        "authors": {"conv": "spatial.conv", "norm": "spatial.bn"},
        "timm": {"conv": "conv.conv", "norm": "conv.bn"},
    }

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__(channels)
        check_kernel_size(kernel_size)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def gate(self, x: Tensor) -> Tensor:
        """(B, 1, H, W), one number a place."""
        pooled = torch.cat([x.amax(1, keepdim=True), mean_of(x, 1)], dim=1)
        return self.norm(self.conv(pooled)).sigmoid()

    def rearrange(self, key: str, weight: Tensor, layout: Layout) -> Tensor:
        """Turns one weight round: timm's convolution reads (mean, max); the authors' and this one read (max, mean)."""
        return weight.flip(1) if layout == "timm" and key == "conv.weight" else weight
