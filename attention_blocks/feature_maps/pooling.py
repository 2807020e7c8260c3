"""Means of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_blocks.kernels import leaf

_WIDE = (torch.float32, torch.float64)


@leaf
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
