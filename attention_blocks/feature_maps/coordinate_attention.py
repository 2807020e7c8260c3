"""Coordinate attention: gates for the rows and columns of each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, check_map
from attention_blocks.feature_maps.pooling import mean_of


class CoordinateAttention(FeatureMapAttention):
    """Multiplies each value by a gate of its row and a gate of its column, for each channel.

    ::

                     ┌─ means of rows ────┐                                     ┌─ 1 x 1 ─ sigmoid ─▶ (B, C, H, 1)
        (B, C, H, W) ┤                    ├─ 1 x 1, C → h ─ norm ─ hard swish ──┤
                     └─ means of columns ─┘                                     └─ 1 x 1 ─ sigmoid ─▶ (B, C, 1, W)

        gate = rows x columns, h = max(C / reduction, 8)

    Args:
        channels: C.
        reduction: 32 in the authors' code.
        hidden_channels: h itself, instead of ``reduction``.
        bias: of the three convolutions, as in the authors' code; timm has none.

    Raises:
        ValueError: a size is not positive.

    References:
        Hou et al. 2021, "Coordinate Attention for Efficient Mobile Network Design".

    Example:
        >>> import torch
        >>> CoordinateAttention(channels=32).gate(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        layout: {"down_proj": "conv1", "norm": "bn1", "row_proj": "conv_h", "column_proj": "conv_w"}
        for layout in ("authors", "timm")
    }

    def __init__(
        self, channels: int, reduction: int = 32, *, hidden_channels: int | None = None, bias: bool = True
    ) -> None:
        super().__init__(channels)
        for name, size in (("reduction", reduction), ("hidden_channels", hidden_channels)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be a positive number, got {size}")
        width = max(8, channels // reduction) if hidden_channels is None else hidden_channels
        self.down_proj = nn.Conv2d(channels, width, 1, bias=bias)
        self.norm = nn.BatchNorm2d(width)
        self.activation = nn.Hardswish()
        self.row_proj = nn.Conv2d(width, channels, 1, bias=bias)
        self.column_proj = nn.Conv2d(width, channels, 1, bias=bias)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Gates of the rows, (B, C, H, 1), and of the columns, (B, C, 1, W)."""
        squeezed = torch.cat([mean_of(x, 3), mean_of(x, 2).transpose(2, 3)], dim=2)  # (B, C, H + W, 1)
        squeezed = self.activation(self.norm(self.down_proj(squeezed)))  # (B, h, H + W, 1)
        rows, columns = squeezed.split([x.size(2), x.size(3)], dim=2)
        columns = self.column_proj(columns).sigmoid().transpose(2, 3)  # (B, C, 1, W)
        return {"rows": self.row_proj(rows).sigmoid(), "columns": columns}

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, H, W), product of the gates of row and column."""
        gates = self.gates(x)
        return gates["rows"] * gates["columns"]

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`FeatureMapAttention.forward`."""
        check_map(x, self.channels)
        gates = self.gates(x)
        return x * gates["rows"] * gates["columns"]
