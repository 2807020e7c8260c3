"""Learning-rate schedules over the whole training, whose length is known from the trainer."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class LengthAwareSchedule(LRScheduler):
    """Base of the schedules that depend on the length of the training.

    Args:
        optimizer: optimiser whose learning rates are set.
        total_steps: length of the training in optimiser steps; defaults to that of the trainer, which the system sets.
        last_epoch: last step that was completed, -1 before the first.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None, last_epoch: int = -1) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer, last_epoch)

    def set_total_steps(self, total_steps: float) -> None:
        """Sets the length of the training, unless the constructor did, and the learning rates of the current step.

        Args:
            total_steps: length of the training in optimiser steps.

        Raises:
            ValueError: ``total_steps`` is infinite.
        """
        if self.total_steps is None:
            if math.isinf(total_steps):
                raise ValueError(
                    f"{type(self).__name__} needs the training's length; give total_steps, or the trainer max_epochs "
                    "or max_steps"
                )
            self.total_steps = int(total_steps)
            for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                group["lr"] = rate
            self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def factor(self, progress: float) -> float:
        """Factor of the base learning rate.

        Args:
            progress: fraction of the training that is done, from 0 to 1.
        """
        raise NotImplementedError(f"{type(self).__name__} must define factor(progress)")

    def state_dict(self) -> dict[str, Any]:
        """State without the length of the training, since a resumed training may be longer than the saved one."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}

    def get_lr(self) -> list[float]:  # type: ignore[override] # torch also allows tensors
        """Learning rates of the current step, one per parameter group."""
        progress = 0.0 if self.total_steps is None else min(self.last_epoch / max(self.total_steps, 1), 1.0)
        return [float(rate) * self.factor(progress) for rate in self.base_lrs]


class WarmupCosine(LengthAwareSchedule):
    """Linear warm-up from nearly 0 to the base learning rate, then half a cosine down.

    Args:
        optimizer: optimiser whose learning rates are set.
        warmup: fraction of the training in which the rate rises.
        final: learning rate at the end, as a fraction of the base rate.
        total_steps: length of the training in optimiser steps; defaults to that of the trainer, which the system sets.
        last_epoch: last step that was completed, -1 before the first.

    Raises:
        ValueError: ``warmup`` or ``final`` outside [0, 1].

    References:
        Loshchilov and Hutter 2017, "SGDR"; Goyal et al. 2017, "Accurate, Large Minibatch SGD" (warm-up).

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = WarmupCosine(optimizer, warmup=0.5, total_steps=4)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step(); schedule.step()
        >>> rates
        [0.001, 0.5, 1.0, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.05,
        final: float = 0.0,
        total_steps: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        for name, fraction in (("warmup", warmup), ("final", final)):
            if not 0.0 <= fraction <= 1.0:
                raise ValueError(f"{name} is a fraction and must lie in [0, 1], got {fraction}")
        self.warmup = warmup
        self.final = final
        super().__init__(optimizer, total_steps, last_epoch)

    def factor(self, progress: float) -> float:
        """See :meth:`LengthAwareSchedule.factor`."""
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-3)
        falling = (progress - self.warmup) / max(1.0 - self.warmup, 1e-9)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * falling))


class Noam(LRScheduler):
    """Schedule of "Attention Is All You Need": linear warm-up, then decay with the inverse square root of the step.

    ::

        rate = base · D^-0.5 · min(step^-0.5, step · warmup_steps^-1.5)

    The optimiser's learning rate is the factor ``base``, which is 1 in the paper.

    Args:
        optimizer: optimiser whose learning rates are set.
        dim: D of the model.
        warmup_steps: steps until the maximum rate, which is base / sqrt(D · warmup_steps).
        last_epoch: last step that was completed, -1 before the first.

    Raises:
        ValueError: ``dim`` or ``warmup_steps`` is less than 1.

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 5.3.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = Noam(optimizer, dim=4, warmup_steps=1)
        >>> schedule.get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: Optimizer, dim: int, warmup_steps: int = 4000, last_epoch: int = -1) -> None:
        for name, number in (("dim", dim), ("warmup_steps", warmup_steps)):
            if number < 1:
                raise ValueError(f"{name} must be 1 or more, got {number}")
        self.dim = dim
        self.warmup_steps = warmup_steps
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override] # torch also allows tensors
        """Learning rates of the current step, one per parameter group."""
        step = self.last_epoch + 1
        factor = self.dim**-0.5 * min(step**-0.5, step * self.warmup_steps**-1.5)
        return [float(rate) * factor for rate in self.base_lrs]
