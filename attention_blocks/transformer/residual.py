"""The residual connection around every part of a Transformer layer."""

from __future__ import annotations

from torch import Tensor, nn

from attention_blocks.kernels import dropout
from attention_blocks.transformer.drop_path import DropPath
from attention_blocks.transformer.layer_scale import LayerScale


class Residual(nn.Module):
    """Adds what a branch has found to what went into it.

    ::

        x + drop_path(scale(dropout(branch)))

    What is not asked for is not there and costs nothing.

    Args:
        dim: D.
        dropout: share of the branch's features dropped in training.
        drop_path: share of the rows of the batch that skip the branch in training.
        layer_scale: factor of each of the branch's features at first, learned from there; none when left out.

    Raises:
        ValueError: a share lies outside [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 5.4 (dropout); and as :class:`DropPath` and
        :class:`LayerScale`.

    Example:
        >>> import torch
        >>> residual = Residual(2, layer_scale=0.5)
        >>> residual(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 4.0])).tolist()
        [2.0, 3.0]
    """

    def __init__(
        self, dim: int, *, dropout: float = 0.0, drop_path: float = 0.0, layer_scale: float | None = None
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if not 0.0 <= drop_path < 1.0:
            raise ValueError(f"drop_path must lie in [0, 1), got {drop_path}")
        self.dropout = dropout
        self.scale = None if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path else None

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Joins branch and trunk.

        Args:
            x: what went into the branch, (B, T, D).
            branch: what came out of it, (B, T, D).

        Returns:
            (B, T, D).
        """
        branch = dropout(branch, self.dropout, self.training)
        if self.scale is not None:
            branch = self.scale(branch)
        if self.drop_path is not None:
            branch = self.drop_path(branch)
        return x + branch

    def extra_repr(self) -> str:
        """Names the dropout in the printed module."""
        return f"dropout={self.dropout:g}" if self.dropout else ""
