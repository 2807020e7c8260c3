"""Batch norms in training when there is one value per channel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import Proxy

from attention_blocks.evaluation import evaluation_view


def normalised(module: nn.Module, x: Tensor) -> Tensor:
    """Output of a batch norm, or of layers with batch norms.

    In training with one value per channel, as of a batch of one pooled feature map, which has no variance, they are
    evaluated: with their running statistics, which do not change.

    Args:
        module: the batch norm, or the layers.
        x: (B, C), or (B, C, H, W).

    Example:
        >>> norm = nn.BatchNorm1d(3)
        >>> torch.allclose(normalised(norm, torch.ones(1, 3)), torch.ones(1, 3))
        True
    """
    if module.training and not isinstance(x, Proxy) and x.numel() == x.size(1):
        module = evaluation_view(module)
    return module(x)
