"""Dropout with a mask from random bits, which is faster on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks.kernels.fast_paths import uses_fast_paths
from attention_blocks.kernels.leaf import leaf

# Probabilities are rounded to multiples of 1/2^16; kept entries are scaled by the rounded probability.
_LEVELS = 2**16


@leaf
def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """``F.dropout(x, p, training)`` with a faster mask on CPUs.

    On CPUs four entries share 64 random bits, and ``p`` is rounded to a multiple of 1/65,536; the mean is kept exactly.
    The same seed drops the same entries. ``torch.compile`` and ``torch.export`` see ``F.dropout``.

    Args:
        x: any shape.
        p: fraction that is dropped, in [0, 1).
        training: whether to drop anything.

    Returns:
        A tensor of the same shape.

    Example:
        >>> kept = dropout(torch.ones(1000), 0.25)
        >>> kept.unique()
        tensor([0.0000, 1.3333])
    """
    if not training or not p:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not uses_fast_paths():
        return F.dropout(x, p)
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    # Drawn as torch.vmap's randomness asks for: the same for all samples, or different ones.
    bits = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 3) // 4,), dtype=torch.int64, device=x.device)
    bits = bits.view(torch.int16)[: x.numel()].view(x.shape)
    return x * (bits >= dropped - _LEVELS // 2).to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))
