"""Spatial attention: the second half of CBAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, check_kernel_size
from attention_blocks.feature_maps.pooling import mean_of
from attention_blocks.normalised import normalised


class SpatialAttention(FeatureMapAttention):
    """Multiplies each location by a gate computed from the channel maxima and means around it.

    ::

                     ┌─ max over channels ──┐
        (B, C, H, W) ┤                      ├─ convolution k x k, 2 → 1 ─ batch norm ─ sigmoid ─▶ (B, 1, H, W)
                     └─ mean over channels ─┘

    Args:
        channels: C; the number of parameters does not depend on it.
        kernel_size: k; 7 in the authors' code.

    Raises:
        ValueError: the kernel's size is even; a size is not positive.

    References:
        Woo et al. 2018, "CBAM: Convolutional Block Attention Module", section 3; batch norm with a
        momentum of 0.01 as in the authors' code.

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
        """(B, 1, H, W), one value per location."""
        pooled = torch.cat([x.amax(1, keepdim=True), mean_of(x, 1)], dim=1)  # (B, 2, H, W)
        return normalised(self.norm, self.conv(pooled)).sigmoid()

    def rearrange(self, key: str, weight: Tensor, layout: Layout) -> Tensor:
        """Swaps input channels: timm's convolution reads (mean, max), the authors' and this one (max, mean)."""
        return weight.flip(1) if layout == "timm" and key == "conv.weight" else weight
