"""Stochastic depth: in training, some rows of the batch skip a residual branch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks.kernels import leaf


class DropPath(nn.Module):
    """Stochastic depth: zeroes random rows of the batch in training and scales up the others; else the identity.

    Args:
        rate: fraction of the rows that is zeroed.

    Raises:
        ValueError: ``rate`` lies outside [0, 1).

    References:
        Huang et al. 2016, "Deep Networks with Stochastic Depth".

    Example:
        >>> import torch
        >>> drop = DropPath(0.5)
        >>> sorted(set(drop(torch.ones(64, 3, 2)).flatten().tolist()))
        [0.0, 2.0]
        >>> drop.eval()(torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rate must lie in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drops rows.

        Args:
            x: (B, ...).

        Returns:
            (B, ...).
        """
        if not self.training or not self.rate:
            return x
        return _without_rows(x, self.rate)

    def extra_repr(self) -> str:
        """Shows the rate in the printed module."""
        return f"rate={self.rate:g}"


@leaf
def _without_rows(x: Tensor, rate: float) -> Tensor:
    return x * F.dropout(x.new_ones(x.size(0), *[1] * (x.ndim - 1)), rate)  # (B, 1, ..., 1)
