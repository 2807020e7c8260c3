"""Rotary positions: queries and keys are rotated by their position, so that scores depend on the distance alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.positions.sinusoidal import angles


class RotaryPosition(nn.Module):
    """Rotates each pair of features of a head by an angle proportional to the position.

    The i-th pair is feature i and feature i + head_dim / 2, as in the Llama and GPT-NeoX weights; the paper pairs
    neighbouring features, which is the same up to a permutation::

        (x_i, x_{i + head_dim/2}) at position t is rotated by  t / base^(2i / head_dim)  radians

    :class:`MultiHeadAttention` creates it from the size of its heads:
    ``MultiHeadAttention(64, rotary=RotaryPosition)``, or ``rotary=functools.partial(RotaryPosition, base=500000.0)``.

    Args:
        head_dim: feature size of a head, even.
        base: sets the longest wavelength, 2π · base positions.

    Raises:
        ValueError: ``head_dim`` is odd or not positive, ``base`` is not positive.

    References:
        Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding".

    Example:
        >>> import torch
        >>> rotary = RotaryPosition(2)
        >>> rotary(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))
        tensor([[[[1.0000, 0.0000],
                  [0.5403, 0.8415]]]])
    """

    def __init__(self, head_dim: int, *, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim < 2 or head_dim % 2:
            raise ValueError(
                f"head_dim must be positive and even, as rotary positions rotate pairs of features, got {head_dim}; "
                "choose another number of heads"
            )
        if base <= 0:
            raise ValueError(f"base must be positive, got {base}")
        self.head_dim = head_dim
        self.base = base

    def forward(self, x: Tensor, *, offset: int = 0) -> Tensor:
        """Rotates queries or keys.

        Args:
            x: (B, N, T, head_dim).
            offset: position of the first vector of x, for a sequence that is processed in pieces.

        Returns:
            (B, N, T, head_dim), in the dtype of ``x``.

        Raises:
            ValueError: the features of ``x`` are not ``head_dim``.
        """
        return _rotated(x, self.head_dim, self.base, offset)

    def extra_repr(self) -> str:
        """Shows the size in the printed module."""
        return f"{self.head_dim}, base={self.base:g}"


@leaf
def _rotated(x: Tensor, head_dim: int, base: float, offset: int) -> Tensor:
    if x.size(-1) != head_dim:
        raise ValueError(f"x must have shape (B, N, T, {head_dim}), got {tuple(x.shape)}")
    angle = angles(x.size(-2), head_dim // 2, base=base, like=x, offset=offset)  # (T, head_dim / 2)
    cos, sin = angle.cos(), angle.sin()
    first, second = x.chunk(2, dim=-1)  # (B, N, T, head_dim / 2) each
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
