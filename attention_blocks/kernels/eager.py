"""Whether torch runs a call as it stands, or watches it: compiling, tracing, transforming, casting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attention_blocks.kernels.autocast import autocast_dtype


def is_watched(x: Tensor) -> bool:
    """Whether more than the result of a call matters, so that it must be made of torch's own operations.

    True under ``torch.compile``, ``torch.export``, ``torch.jit.trace``, ``torch.func`` and forward-mode gradients, and
    for subclasses of tensors.

    Args:
        x: what the call works on.

    Example:
        >>> is_watched(torch.ones(2))
        False
        >>> torch.func.vmap(lambda x: x + is_watched(x))(torch.ones(2))
        tensor([2., 2.])
    """
    return (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def runs_as_it_stands(x: Tensor) -> bool:
    """Whether a call is neither watched nor cast, so that it may be computed by operations of our own.

    Args:
        x: what the call works on.

    Example:
        >>> runs_as_it_stands(torch.ones(2))
        True
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     runs_as_it_stands(torch.ones(2))
        False
    """
    return not is_watched(x) and autocast_dtype(x.device.type) is None
