"""Feed-forward network of a Transformer layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from attention_blocks.kernels import dropout


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, applied to each position.

    ::

        x ─ up_proj ─ activation ─ dropout ─ down_proj ─▶

    Args:
        dim: D.
        hidden_dim: size of the hidden layer; defaults to 4 D.
        bias: whether the two linear layers have a bias.
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
        bias: bool = True,
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
        self.up_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.activation = activation()
        self.down_proj = nn.Linear(hidden_dim, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases, as in the code of the paper's authors and of the ViT's."""
        for linear in (self.up_proj, self.down_proj):
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
        hidden = self.activation(self.up_proj(x))
        return self.down_proj(dropout(hidden, self.dropout, self.training))

    def extra_repr(self) -> str:
        """Shows the dropout in the printed module."""
        return f"dropout={self.dropout:g}" if self.dropout else ""
