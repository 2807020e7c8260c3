"""Dropout by random bits where a CPU makes those sooner than torch makes its mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks.kernels.eager import is_watched

# Chances are multiples of 1/2^16, and what is kept is scaled by the very chance that it was kept with.
_LEVELS = 2**16


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """``F.dropout(x, p, training)``, by whatever draws the mask fastest.

    Torch draws each entry's fate on CPUs from a number of its own, at 6 to 8 ns; here four entries share 64 random
    bits, which takes 1 to 2 ns an entry and rounds ``p`` to a multiple of 1/65,536. The mean is kept exactly. The same
    seed drops the same entries. ``torch.compile``, ``torch.export`` and ``torch.func`` see plain torch.

    Args:
        x: any shape.
        p: share that is dropped, 0 or more and less than 1.
        training: whether anything is.

    Example:
        >>> kept = dropout(torch.ones(1000), 0.25)
        >>> kept.unique()
        tensor([0.0000, 1.3333])
    """
    if not training or not p:
        return x
    if x.device.type != "cpu" or is_watched(x):
        return F.dropout(x, p)
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    # The comparison writes ones and zeros of the wanted type, which spares a pass over booleans.
    kept = torch.ge(bits[: x.numel()].view(x.shape), dropped - _LEVELS // 2, out=torch.empty(x.shape, dtype=x.dtype))
    return x * kept.mul_(_LEVELS / (_LEVELS - dropped))
