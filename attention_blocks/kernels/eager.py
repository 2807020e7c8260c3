"""Whether torch runs a call as it stands, or watches it: compiling, tracing, transforming, casting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attention_blocks.kernels.autocast import autocast_dtype


def runs_as_it_stands(x: Tensor) -> bool:
    """Whether nothing but the result of a call matters, so that it may be computed by operations of our own.

    False under ``torch.compile``, ``torch.export``, ``torch.jit.trace``, ``torch.func``, forward-mode gradients and
    autocast, and for subclasses of tensors: they all see plain torch.

    Args:
        x: what the call works on.

    Example:
        >>> runs_as_it_stands(torch.ones(2))
        True
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     runs_as_it_stands(torch.ones(2))
        False
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and autocast_dtype(x.device.type) is None
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
