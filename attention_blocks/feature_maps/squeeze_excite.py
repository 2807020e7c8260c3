"""Squeeze-and-excitation: channel attention from the means of all channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, hidden
from attention_blocks.feature_maps.pooling import mean_of


class SqueezeExcite(FeatureMapAttention):
    """Multiplies each channel by a gate, computed from the means of all channels.

    ::

        (B, C, H, W) ─ mean over H and W ─ linear C → C/r ─ ReLU ─ linear C/r → C ─ sigmoid ─▶ (B, C, 1, 1)

        gate = σ(W₂ relu(W₁ mean(x) + b₁) + b₂)

    Args:
        channels: C.
        reduction: r; 16 in the authors' networks.
        hidden_channels: C/r itself, instead of ``reduction``.
        divisor: round C/r to a multiple of this, at least one; 8 in timm. If omitted, r must divide C.
        bias: as in the authors' networks; the paper's equation has none.
        activation: creates the activation between the two linear layers; SiLU in some mobile networks.
        gate_activation: creates the final activation; ``nn.Hardsigmoid`` in some mobile networks.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``; a size is not positive.

    References:
        Hu et al. 2018, "Squeeze-and-Excitation Networks".

    Example:
        >>> import torch
        >>> block = SqueezeExcite(channels=32)
        >>> block(torch.randn(2, 32, 7, 7)).shape, block.gate(torch.randn(2, 32, 7, 7)).shape
        (torch.Size([2, 32, 7, 7]), torch.Size([2, 32, 1, 1]))
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        # The authors' networks are in Caffe; this is the layout of their port to PyTorch.
        "authors": {"down_proj": "fc.0", "up_proj": "fc.2"},
        "timm": {"down_proj": "fc1", "up_proj": "fc2"},
        "timm_efficientnet": {"down_proj": "conv_reduce", "up_proj": "conv_expand"},
    }

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        hidden_channels: int | None = None,
        divisor: int | None = None,
        bias: bool = True,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate_activation: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__(channels)
        width = hidden(channels, reduction, hidden_channels, divisor)
        self.down_proj = nn.Linear(channels, width, bias=bias)
        self.activation = activation()
        self.up_proj = nn.Linear(width, channels, bias=bias)
        self.gate_activation = gate_activation()

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, 1, 1), one value per channel."""
        squeezed = mean_of(x, (2, 3)).flatten(1)  # (B, C)
        excited = self.gate_activation(self.up_proj(self.activation(self.down_proj(squeezed))))  # (B, C)
        return excited[:, :, None, None]
