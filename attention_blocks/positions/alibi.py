"""ALiBi: a bias on the scores that falls linearly with the distance, at a slope for each head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf


def alibi_slopes(num_heads: int) -> list[float]:
    """Slopes of the heads, as chosen by Press et al.

    If N is a power of two, a geometric series that starts at 2^(-8/N), with the same ratio. Otherwise the series of
    the next lower power of two, followed by every other slope of the series of twice as many heads.

    Args:
        num_heads: N.

    Returns:
        N slopes.

    Example:
        >>> alibi_slopes(4)
        [0.25, 0.0625, 0.015625, 0.00390625]
        >>> alibi_slopes(3)
        [0.0625, 0.00390625, 0.25]
    """
    power = 2 ** (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-4 * (head + 1) / power) for head in range(0, 2 * power, 2)]
    return slopes + between[: num_heads - power]


class ALiBi(nn.Module):
    """Attention with linear biases: scores fall linearly with the distance, at a fixed slope for each head.

    ::

        score(i, j) = q_i · k_j / sqrt(D) - slope · |i - j|

    It has no parameters, and sequences may be longer than in training. :class:`MultiHeadAttention` creates it from
    its number of heads: ``MultiHeadAttention(64, score_bias=ALiBi)``.

    Args:
        num_heads: N.

    Raises:
        ValueError: ``num_heads`` is not positive.

    References:
        Press et al. 2022, "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation".

    Example:
        >>> ALiBi(2)(2, 3)
        tensor([[[-0.0000, -0.0625, -0.1250],
                 [-0.0625, -0.0000, -0.0625]],
        <BLANKLINE>
                [[-0.0000, -0.0039, -0.0078],
                 [-0.0039, -0.0000, -0.0039]]])
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"num_heads must be 1 or more, got {num_heads}")
        self.slopes = alibi_slopes(num_heads)

    def forward(
        self, query_length: int, key_length: int, *, offset: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """Bias to add to the scores.

        Args:
            query_length: T_q.
            key_length: T_k.
            offset: position of the first query; the first key is at position 0.
            device: device of the bias.

        Returns:
            (N, T_q, T_k), in float32.
        """
        return _bias(self.slopes, query_length, key_length, offset, device)

    def extra_repr(self) -> str:
        """Shows the number of heads in the printed module."""
        return f"num_heads={len(self.slopes)}"


@leaf
def _bias(slopes: list[float], queries: int, keys: int, offset: int, device: torch.device | str | None) -> Tensor:
    ahead = torch.arange(keys, device=device) - (torch.arange(queries, device=device) + offset)[:, None]  # (T_q, T_k)
    return -torch.tensor(slopes, device=device)[:, None, None] * ahead.abs()  # (N, T_q, T_k)
