"""No positions: what stands where positions are asked for and the attention has its own."""

from __future__ import annotations

from torch import Tensor, nn


class NoPosition(nn.Module):
    """Adds nothing: for networks whose attentions know the positions themselves, by rotary ones or by ALiBi.

    Args:
        dim: D; not looked at.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 5, 8)
        >>> torch.equal(NoPosition(8)(x, offset=3), x)
        True
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, *, offset: int = 0) -> Tensor:
        """Returns what it is given.

        Args:
            x: (B, T, D).
            offset: position of the first place; not looked at.

        Returns:
            ``x``.
        """
        return x
