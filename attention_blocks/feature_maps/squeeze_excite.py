"""Squeeze-and-excitation: what the whole map shows decides how much each channel counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, hidden
from attention_blocks.feature_maps.pooling import mean_of


class SqueezeExcite(FeatureMapAttention):
    """Multiplies each channel by a gate, computed from the means of all channels.

    ::

        (B, C, H, W) ─ mean over places ─ linear C → C/r ─ ReLU ─ linear C/r → C ─ sigmoid ─▶ (B, C, 1, 1)

        gate = σ(W₂ relu(W₁ mean(x) + b₁) + b₂)

    Args:
        channels: C.
        reduction: r; the authors' 16.
        hidden_channels: C/r itself, in place of ``reduction``.
        divisor: C/r is rounded to a multiple of this, at least one; timm's 8. When left out, r must divide C.
        bias: as in the authors' networks; the paper's equation leaves it out.
        activation: between the two maps; some mobile networks take SiLU.
        gate_activation: at the end; some mobile networks take ``nn.Hardsigmoid``.

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
        # The authors' networks are Caffe's; this is the layout in which they were carried to PyTorch.
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
        """(B, C, 1, 1), one number a channel."""
        squeezed = mean_of(x, (2, 3)).flatten(1)
        excited = self.gate_activation(self.up_proj(self.activation(self.down_proj(squeezed))))
        return excited[:, :, None, None]
