"""Residual connection around each branch of a Transformer layer."""

from __future__ import annotations

from torch import Tensor, nn

from attention_blocks.kernels import dropout
from attention_blocks.transformer.drop_path import DropPath
from attention_blocks.transformer.layer_scale import LayerScale


class Residual(nn.Module):
    """Adds a branch's output to its input.

    ::

        x + drop_path(scale(dropout(branch)))

    Parts that are not requested are not created.

    Args:
        dim: D.
        dropout: fraction of the branch's features dropped in training.
        drop_path: fraction of the rows of the batch that skip the branch in training.
        layer_scale: initial value of a learned factor for each feature of the branch; no factor if omitted.

    Raises:
        ValueError: a rate lies outside [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 5.4 (dropout); see also :class:`DropPath` and
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
        """Adds the branch's output to its input.

        Args:
            x: input of the branch, (B, T, D).
            branch: output of the branch, (B, T, D).

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
        """Shows the dropout in the printed module."""
        return f"dropout={self.dropout:g}" if self.dropout else ""
