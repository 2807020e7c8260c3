"""The feed-forward network of a Transformer layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Widens each place's features, bends them, and narrows them again.

    ::

        x ─ up_proj ─ activation ─ dropout ─ down_proj ─▶

    Args:
        dim: D.
        hidden_dim: the width in between; 4 D when left out.
        activation: makes the activation; ``nn.ReLU`` in the paper, ``nn.GELU`` in most of what followed.
        dropout: share of the hidden features dropped in training.

    Raises:
        ValueError: a size is not positive, dropout outside [0, 1).

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
        self.up_proj = nn.Linear(dim, hidden_dim)
        self.activation = activation()
        self.down_proj = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps each place by itself.

        Args:
            x: (..., D).

        Returns:
            (..., D).
        """
        hidden = self.up_proj(x)
        if type(self.activation) is nn.GELU and not torch.is_grad_enabled():
            # The widest tensor of a Transformer: overwritten rather than written again, where no gradient wants it.
            hidden = torch.ops.aten.gelu_(hidden, approximate=self.activation.approximate)
        else:
            hidden = self.activation(hidden)
        if self.training and self.dropout:
            hidden = F.dropout(hidden, self.dropout)
        return self.down_proj(hidden)

    def extra_repr(self) -> str:
        """Names the dropout in the printed module."""
        return f"dropout={self.dropout:g}" if self.dropout else ""
