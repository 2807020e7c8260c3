"""Whether autocast is on for a device, asked as each torch wants to be asked."""

from __future__ import annotations

import torch

# Torch 2.4 brought questions by device, and newer ones warn at those of before.
_BY_DEVICE = hasattr(torch, "get_autocast_dtype")


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """What autocast turns the operands of products into; ``None`` where it is off.

    Args:
        device_type: as ``tensor.device.type`` names it.

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
