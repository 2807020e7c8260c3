"""Means of feature maps, and their product with gates."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = (torch.float32, torch.float64)


def mean_of(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Mean over some dimensions, which are kept with size 1.

    Args:
        x: any shape.
        dim: the dimensions.

    Example:
        >>> mean_of(torch.ones(2, 3, 4, 5), (2, 3)).shape
        torch.Size([2, 3, 1, 1])
    """
    # The gradient of a sum is an expanded scalar, that of Tensor.mean a full tensor. In half precision a sum may
    # overflow.
    if x.dtype not in _WIDE:
        return x.mean(dim, keepdim=True)
    count = 1
    for axis in (dim,) if isinstance(dim, int) else dim:
        count *= x.size(axis)
    return x.sum(dim, keepdim=True) / count


def multiplied(x: Tensor, *gates: Tensor, overwrite: bool = False) -> Tensor:
    """Product of a feature map and its gates; intermediate results are overwritten where no gradient needs them.

    Args:
        x: (B, C, H, W).
        gates: each broadcastable to ``x``.
        overwrite: allow overwriting ``x`` itself.

    Returns:
        (B, C, H, W).

    Example:
        >>> multiplied(torch.full((1, 2, 2, 2), 3.0), torch.tensor(2.0), torch.tensor(0.5)).unique()
        tensor([3.])
    """
    for gate in gates:
        in_place = overwrite and gate.dtype == x.dtype
        x = (
            x * gate
            if not in_place or (torch.is_grad_enabled() and (x.requires_grad or gate.requires_grad))
            else x.mul_(gate)
        )
        overwrite = True
    return x
