"""No positions, for networks whose attention encodes positions by itself."""

from __future__ import annotations

from torch import Tensor, nn


class NoPosition(nn.Module):
    """Identity, for networks whose attention encodes positions by itself, such as rotary positions or ALiBi.

    Args:
        dim: D; ignored.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 5, 8)
        >>> torch.equal(NoPosition(8)(x, offset=3), x)
        True
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, *, offset: int = 0) -> Tensor:
        """Returns ``x``.

        Args:
            x: (B, T, D).
            offset: ignored.

        Returns:
            ``x``.
        """
        return x
