"""Efficient channel attention: a convolution along the channels gates each channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, check_kernel_size
from attention_blocks.feature_maps.pooling import mean_of


class EfficientChannelAttention(FeatureMapAttention):
    """Multiplies each channel by a gate computed from the means of the k channels around it, with k weights in total.

    ::

        (B, C, H, W) ─ mean over H and W ─ convolution along the channels, size k ─ sigmoid ─▶ (B, C, 1, 1)

        k = (log₂ C + 1) / 2, rounded down, and the next odd number if that is even

    Args:
        channels: C.
        kernel_size: k; if omitted, computed from the channels as above.

    Raises:
        ValueError: the kernel's size is even; a size is not positive.

    References:
        Wang et al. 2020, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks".

    Example:
        >>> import torch
        >>> block = EfficientChannelAttention(channels=256)
        >>> block.conv.kernel_size, block.gate(torch.randn(2, 256, 7, 7)).shape
        ((5,), torch.Size([2, 256, 1, 1]))
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {"authors": {"conv": "conv"}, "timm": {"conv": "conv"}}

    def __init__(self, channels: int, kernel_size: int | None = None) -> None:
        super().__init__(channels)
        if kernel_size is None:
            # Rounded down, then up to an odd number: 3 for 64 channels, 5 for 128 to 1,024.
            kernel_size = int((math.log2(channels) + 1) / 2) // 2 * 2 + 1
        check_kernel_size(kernel_size)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, 1, 1), one value per channel."""
        squeezed = mean_of(x, (2, 3)).flatten(2).transpose(1, 2)  # (B, 1, C)
        return self.conv(squeezed).sigmoid().transpose(1, 2).unsqueeze(-1)
