"""CBAM: channel attention followed by spatial attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from attention_blocks.feature_maps.channel_attention import ChannelAttention
from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout
from attention_blocks.feature_maps.spatial_attention import SpatialAttention


class CBAM(FeatureMapAttention):
    """:class:`ChannelAttention` followed by :class:`SpatialAttention`.

    ::

        (B, C, H, W) ─ channel attention ─ spatial attention ─▶ (B, C, H, W)

    The input is not added to the output: the authors insert the block in a residual branch.

    Args:
        channels: C.
        reduction: of the channel attention; 16 in the authors' code.
        kernel_size: of the spatial attention; 7 in the authors' code.
        hidden_channels: of the channel attention, instead of ``reduction``.
        divisor: round the hidden channels of the channel attention to a multiple of this; 1 in timm.
        bias: of the channel attention, as in the authors' code; timm has none.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``; the kernel's size is even; a size is not positive.

    References:
        Woo et al. 2018, "CBAM: Convolutional Block Attention Module".

    Example:
        >>> import torch
        >>> CBAM(channels=32)(torch.randn(2, 32, 7, 7)).shape
        torch.Size([2, 32, 7, 7])
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        "authors": {"channel_attention": "ChannelGate", "spatial_attention": "SpatialGate"},
        "timm": {"channel_attention": "channel", "spatial_attention": "spatial"},
    }

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_size: int = 7,
        *,
        hidden_channels: int | None = None,
        divisor: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(channels)
        self.channel_attention = ChannelAttention(
            channels, reduction, hidden_channels=hidden_channels, divisor=divisor, bias=bias
        )
        self.spatial_attention = SpatialAttention(channels, kernel_size)

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, H, W), product of both gates."""
        gates = self.gates(x)
        return gates["channels"] * gates["locations"]

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Gates of the channels, (B, C, 1, 1), and of the locations, (B, 1, H, W)."""
        channels = self.channel_attention.gate(x)
        return {"channels": channels, "locations": self.spatial_attention.gate(x * channels)}

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`FeatureMapAttention.forward`."""
        return self.spatial_attention(self.channel_attention(x))
