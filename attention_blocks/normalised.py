"""Batch norms in training when there is one value per channel."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.fx import Proxy


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """Output of a batch norm; in training with one value per channel, which has no variance, its output in evaluation.

    So is a batch of one pooled feature map normalised by the running statistics, which do not change.

    Args:
        norm: the batch norm.
        x: (B, C), or (B, C, H, W).

    Example:
        >>> import torch
        >>> normalised(nn.BatchNorm1d(3, eps=0.0), torch.ones(1, 3)).detach()
        tensor([[1., 1., 1.]])
    """
    if norm.training and _has_one_value(x):
        norm = copy.copy(norm)  # shares parameters and statistics, and has its own mode
        norm.training = False
    return norm(x)


def _has_one_value(x: Tensor | Proxy) -> bool:
    # Symbolic tracing does not know sizes.
    return isinstance(x, Tensor) and x.numel() == x.size(1)


class Normalised(nn.Sequential):
    """Layers one after the other, the batch norms among them by :func:`normalised`."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layers."""
        for layer in self:
            x = normalised(layer, x) if isinstance(layer, nn.modules.batchnorm._BatchNorm) else layer(x)
        return x
