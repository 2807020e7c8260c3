"""Feed-forward network of a Transformer layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from attention_blocks.kernels import Linear, dropout, linear


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, applied to each position.

    ::

        x ─ up_proj ─ activation ─ dropout ─ down_proj ─▶

    Args:
        dim: D.
        hidden_dim: size of the hidden layer; defaults to 4 D.
        activation: creates the activation; ``nn.ReLU`` in the paper, ``nn.GELU`` in most later models.
        dropout: fraction of the hidden features dropped in training.

    Raises:
        ValueError: a size is not positive, or dropout lies outside [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.3;
        Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".

    Example:
        >>> import torch
        >>> FeedForward(8, activation=torch.nn.ReLU)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int | None = None,
        *,
        activation: Callable[[], nn.Module] = nn.GELU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden_dim = 4 * dim if hidden_dim is None else hidden_dim
        if dim < 1 or hidden_dim < 1:
            raise ValueError(f"dim and hidden_dim must be positive, got dim={dim}, hidden_dim={hidden_dim}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.dropout = dropout
        self.up_proj = Linear(dim, hidden_dim)
        self.activation = activation()
        self.down_proj = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the network to each position.

        Args:
            x: (..., D).

        Returns:
            (..., D).
        """
        activation = self._fusable()
        if activation is None:
            hidden = self.activation(self.up_proj(x))
        else:
            hidden = linear(x, self.up_proj.weight, self.up_proj.bias, activation=activation)
        return self.down_proj(dropout(hidden, self.dropout, self.training))

    def _fusable(self) -> Literal["relu", "gelu"] | None:
        """Activation to fuse with the linear layer before it, unless a hook or another class must see either call."""
        if type(self.up_proj) is not Linear or self.up_proj._forward_hooks or self.up_proj._forward_pre_hooks:
            return None
        if self.activation._forward_hooks or self.activation._forward_pre_hooks:
            return None
        if type(self.activation) is nn.ReLU:
            return "relu"
        return "gelu" if type(self.activation) is nn.GELU and self.activation.approximate == "none" else None

    def extra_repr(self) -> str:
        """Shows the dropout in the printed module."""
        return f"dropout={self.dropout:g}" if self.dropout else ""
