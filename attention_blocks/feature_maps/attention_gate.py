"""Attention gate of a U-Net: a coarse feature map gates the locations of a finer one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, check_map
from attention_blocks.kernels import leaf


class AttentionGate(FeatureMapAttention):
    """Multiplies each location by a gate computed from the feature map and a coarser gating map.

    ::

        x (B, C, H, W) ────── s x s, stride s, C → h ─┐
                                                      + ─ ReLU ─ 1 x 1, h → 1 ─ sigmoid ─ upsample ─▶ (B, 1, H, W)
        gating (B, C_g, …) ── 1 x 1, C_g → h ─ resize ┘

        gate = σ(ψ relu(W_x x + W_g g + b) + c)

    The 1 x 1 convolution and batch norm that follow in the authors' network are not part of this block.

    Args:
        channels: C, of the feature map on the skip connection.
        gating_channels: C_g; defaults to ``channels``.
        hidden_channels: h; defaults to half of C.
        stride: s, of the convolution on x; 2 in the authors' code.

    Raises:
        ValueError: a size is not positive.

    References:
        Oktay et al. 2018, "Attention U-Net: Learning Where to Look for the Pancreas".

    Example:
        >>> import torch
        >>> block = AttentionGate(channels=16, gating_channels=32)
        >>> block(torch.randn(2, 16, 8, 8), torch.randn(2, 32, 4, 4)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        gating_channels: int | None = None,
        *,
        hidden_channels: int | None = None,
        stride: int = 2,
    ) -> None:
        super().__init__(channels)
        self.gating_channels = channels if gating_channels is None else gating_channels
        width = max(1, channels // 2) if hidden_channels is None else hidden_channels
        for name, size in (("gating_channels", self.gating_channels), ("hidden_channels", width), ("stride", stride)):
            if size < 1:
                raise ValueError(f"{name} must be a positive number, got {size}")
        self.stride = stride
        self.query_proj = nn.Conv2d(channels, width, stride, stride=stride, bias=False)
        self.gating_proj = nn.Conv2d(self.gating_channels, width, 1)
        self.score_proj = nn.Conv2d(width, 1, 1)

    def gate(self, x: Tensor, gating: Tensor | None = None) -> Tensor:
        """(B, 1, H, W), one value per location.

        Args:
            x: (B, C, H, W), with H and W at least ``stride``.
            gating: (B, C_g, any height, any width), from deeper in the network; defaults to ``x``.

        Raises:
            ValueError: a shape does not fit.
        """
        gating = x if gating is None else gating
        check_map(x, self.channels)
        check_map(gating, self.gating_channels, "gating")
        _check_size(x, self.stride)
        query = self.query_proj(x)  # (B, h, H / s, W / s)
        key = _resize(self.gating_proj(gating), query)  # (B, h, H / s, W / s)
        return _resize(self.score_proj(F.relu(query + key)).sigmoid(), x)  # (B, 1, H, W)

    def forward(self, x: Tensor, gating: Tensor | None = None) -> Tensor:
        """Multiplies the feature map by its gate.

        Args:
            x: as in :meth:`gate`.
            gating: as in :meth:`gate`.

        Returns:
            (B, C, H, W).
        """
        return x * self.gate(x, gating)


@leaf
def _check_size(x: Tensor, stride: int) -> None:
    if min(x.shape[2:]) < stride:
        raise ValueError(f"x must have a height and width of stride={stride} or more, got {tuple(x.shape)}")


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
