"""Learned positions: one vector per position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf


class LearnedPosition(nn.Module):
    """Adds a learned vector to each position of a sequence.

    Args:
        dim: D.
        max_length: number of positions that have a vector.

    Attributes:
        table: (max_length, D), drawn from a truncated normal distribution of standard deviation 0.02.

    Raises:
        ValueError: a size is not positive.

    References:
        Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.1.

    Example:
        >>> import torch
        >>> position = LearnedPosition(8, max_length=16)
        >>> position(torch.randn(2, 5, 8), offset=3).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, max_length: int) -> None:
        super().__init__()
        if dim < 1 or max_length < 1:
            raise ValueError(f"dim and max_length must be positive, got dim={dim}, max_length={max_length}")
        self.table = nn.Parameter(torch.empty(max_length, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws a new table."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that an optimiser should not decay: the table."""
        return {"table"}

    def forward(self, x: Tensor, *, offset: int = 0) -> Tensor:
        """Adds the vector of each position.

        Args:
            x: (B, T, D).
            offset: position of the first vector of x, for a sequence that is processed in pieces.

        Returns:
            (B, T, D).

        Raises:
            ValueError: a position lies outside the table, or the features of ``x`` are not ``dim``.
        """
        return x + _vectors(x, self.table, offset)

    def extra_repr(self) -> str:
        """Shows the sizes in the printed module."""
        return f"{self.table.size(1)}, max_length={self.table.size(0)}"


@leaf
def _vectors(x: Tensor, table: Tensor, offset: int) -> Tensor:
    """Vectors of the positions of a sequence, (T, D)."""
    max_length, dim = table.shape
    if x.size(-1) != dim:
        raise ValueError(f"x must have shape (B, T, {dim}), as dim={dim} was given; got {tuple(x.shape)}")
    end = offset + x.size(-2)
    if offset < 0 or end > max_length:
        raise ValueError(
            f"x needs positions {offset} to {end - 1}, but max_length={max_length} has positions 0 to {max_length - 1} "
            "only; shorten x or raise max_length"
        )
    return table[offset:end]
