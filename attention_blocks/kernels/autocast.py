"""Autocast dtype of a device, with the API of the installed torch."""

from __future__ import annotations

import torch

# Since torch 2.4 these functions take a device type; the older ones are deprecated.
_BY_DEVICE = hasattr(torch, "get_autocast_dtype")


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Dtype to which autocast casts the operands of matrix products; ``None`` if autocast is off.

    Args:
        device_type: as in ``tensor.device.type``.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     autocast_dtype("cpu")
        torch.bfloat16
        >>> autocast_dtype("cpu") is None
        True
    """
    if device_type == "meta":
        return None
    if _BY_DEVICE:
        return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
    if device_type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
