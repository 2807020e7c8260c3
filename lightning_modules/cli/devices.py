"""The one flag for devices, ``--device``, for our own commands and for Lightning's Trainer."""

from __future__ import annotations

import torch


def find_device(name: str | None) -> torch.device:
    """The device of a name.

    Args:
        name: "cpu", "cuda", "cuda:1" or "mps"; if omitted, a GPU if available.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    # AssertionError: torch is built without CUDA.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be cpu, cuda, cuda:1 or mps, and one of this machine's, got {name!r}") from error


def trainer_arguments(name: str, devices: object = "auto") -> dict[str, object]:
    """The Trainer's ``accelerator`` and ``devices`` for a device.

    Args:
        name: as in :func:`find_device`.
        devices: the Trainer's own argument, which counts unless it is "auto" or the name has a number.

    Raises:
        ValueError: as in :func:`find_device`; or the name has a number, and ``devices`` asks for others.

    Example:
        >>> trainer_arguments("cpu")
        {'accelerator': 'cpu', 'devices': 1}
        >>> trainer_arguments("cpu", devices=2)
        {'accelerator': 'cpu', 'devices': 2}
    """
    device = find_device(name)
    numbered = ":" in name and device.type != "cpu"
    if numbered and devices not in ("auto", [device.index]):
        raise ValueError(f"device={name!r} names one device, but trainer.devices={devices!r}; omit one of them")
    if numbered:
        devices = [device.index]
    return {"accelerator": device.type, "devices": 1 if devices == "auto" else devices}
