"""SwiGLU: feed-forward network with a gated hidden layer."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks.kernels import dropout


class SwiGLU(nn.Module):
    """Feed-forward network whose hidden layer is gated by a second linear layer with SiLU.

    ::

        x ─┬─ gate_proj ─ SiLU ─┐
           └─ up_proj ──────────×─ dropout ─ down_proj ─▶

    Args:
        dim: D.
        hidden_dim: size of the hidden layer; defaults to 8/3 D, rounded up to a multiple of 8, which gives the three
            linear layers as many parameters as the two of :class:`FeedForward` with 4 D.
        bias: whether the three linear layers have a bias.
        dropout: fraction of the hidden features dropped in training.

    Raises:
        ValueError: a size is not positive, or dropout lies outside [0, 1).

    References:
        Shazeer 2020, "GLU Variants Improve Transformer".

    Example:
        >>> import torch
        >>> feed_forward = SwiGLU(12)
        >>> feed_forward.up_proj.out_features, feed_forward(torch.randn(2, 5, 12)).shape
        (32, torch.Size([2, 5, 12]))
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, *, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        hidden_dim = 8 * math.ceil(dim / 3) if hidden_dim is None else hidden_dim
        if dim < 1 or hidden_dim < 1:
            raise ValueError(f"dim and hidden_dim must be positive, got dim={dim}, hidden_dim={hidden_dim}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.dropout = dropout
        self.gate_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.up_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.down_proj = nn.Linear(hidden_dim, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases, as in :class:`FeedForward`."""
        for linear in (self.gate_proj, self.up_proj, self.down_proj):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the network to each position.

        Args:
            x: (..., D).

        Returns:
            (..., D).
        """
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(dropout(hidden, self.dropout, self.training))

    def extra_repr(self) -> str:
        """Shows the dropout in the printed module."""
        return f"dropout={self.dropout:g}" if self.dropout else ""
