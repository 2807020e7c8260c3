"""Training step shared by the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer


def training_step(loss: Callable[[], Tensor], optimizer: Optimizer, *, mixed: bool) -> Callable[[], None]:
    """Returns a function that runs one training step: loss, gradients and optimiser step.

    Args:
        loss: computes the loss of a batch.
        optimizer: holds the trained parameters.
        mixed: whether the loss is computed with autocast to bfloat16.
    """
    device = optimizer.param_groups[0]["params"][0].device.type

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            value = loss()
        torch.autograd.backward(value)
        optimizer.step()

    return run
