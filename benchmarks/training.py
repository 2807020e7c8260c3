"""A step of training, as a Trainer makes it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer


def training_step(loss: Callable[[], Tensor], optimizer: Optimizer, *, mixed: bool) -> Callable[[], None]:
    """What computes a loss and its gradients, and lets the optimiser step.

    Args:
        loss: computes the loss of a batch.
        optimizer: of what is trained.
        mixed: whether the loss is computed in bfloat16 (mixed precision).
    """
    device = optimizer.param_groups[0]["params"][0].device.type

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            value = loss()
        torch.autograd.backward(value)
        optimizer.step()

    return run
