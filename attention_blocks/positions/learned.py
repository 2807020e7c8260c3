"""Learned positions: one vector a place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnedPosition(nn.Module):
    """Adds a learned vector to each place of a sequence.

    Args:
        dim: D.
        max_length: how many places have a vector.

    Attributes:
        table: (max_length, D), drawn from a normal distribution of deviation 0.02.

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
        """Draws the table anew."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor, *, offset: int = 0) -> Tensor:
        """Adds each place's vector.

        Args:
            x: (B, T, D).
            offset: position of the first place, for a sequence that comes in pieces.

        Returns:
            (B, T, D).

        Raises:
            ValueError: a position lies outside the table, or the features of ``x`` are not ``dim``.
        """
        max_length, dim = self.table.shape
        if x.size(-1) != dim:
            raise ValueError(f"x must have shape (B, T, {dim}), as dim={dim} was given; got {tuple(x.shape)}")
        end = offset + x.size(-2)
        if offset < 0 or end > max_length:
            raise ValueError(
                f"positions {offset} to {end - 1} are asked for but max_length={max_length} knows 0 to "
                f"{max_length - 1}; shorten x, or make the table longer"
            )
        return x + self.table[offset:end]

    def extra_repr(self) -> str:
        """Names the sizes in the printed module."""
        return f"{self.table.size(1)}, max_length={self.table.size(0)}"
