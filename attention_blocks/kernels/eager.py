"""Whether a call is traced, compiled, transformed or autocast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attention_blocks.kernels.autocast import autocast_dtype


def is_transformed(x: Tensor) -> bool:
    """Whether a call is traced, compiled or transformed, so that it must consist of torch's own operations.

    True under ``torch.compile``, ``torch.export``, ``torch.jit.trace``, ``torch.func`` and forward-mode gradients, and
    for subclasses of tensors.

    Args:
        x: input of the call.

    Example:
        >>> is_transformed(torch.ones(2))
        False
        >>> torch.func.vmap(lambda x: x + is_transformed(x))(torch.ones(2))
        tensor([2., 2.])
    """
    return (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def is_eager(x: Tensor) -> bool:
    """Whether a call is neither transformed nor autocast, so that it may use custom operations.

    Args:
        x: input of the call.

    Example:
        >>> is_eager(torch.ones(2))
        True
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     is_eager(torch.ones(2))
        False
    """
    return not is_transformed(x) and autocast_dtype(x.device.type) is None
