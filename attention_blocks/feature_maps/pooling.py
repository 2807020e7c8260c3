"""What a feature map is squeezed to: one number a channel, or one a place."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = (torch.float32, torch.float64)


def mean_of(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The mean over some axes, which are kept.

    A sum's gradient is one number looked at from everywhere, where that of :meth:`torch.Tensor.mean` is written out to
    the whole map; in half precision a sum could leave the range.

    Args:
        x: any shape.
        dim: the axes.

    Example:
        >>> mean_of(torch.ones(2, 3, 4, 5), (2, 3)).shape
        torch.Size([2, 3, 1, 1])
    """
    if x.dtype not in _WIDE:
        return x.mean(dim, keepdim=True)
    count = 1
    for axis in (dim,) if isinstance(dim, int) else dim:
        count *= x.size(axis)
    return x.sum(dim, keepdim=True) / count


def multiplied(x: Tensor, *gates: Tensor, overwrite: bool = False) -> Tensor:
    """A map times its gates; where no gradient wants what lies between, it is overwritten rather than written again.

    Args:
        x: (B, C, H, W).
        gates: broadcastable to it.
        overwrite: x itself is nobody else's.

    Example:
        >>> multiplied(torch.full((1, 2, 2, 2), 3.0), torch.tensor(2.0), torch.tensor(0.5)).unique()
        tensor([3.])
    """
    for gate in gates:
        own = overwrite and gate.dtype == x.dtype
        x = (
            x * gate
            if not own or (torch.is_grad_enabled() and (x.requires_grad or gate.requires_grad))
            else x.mul_(gate)
        )
        overwrite = True
    return x
