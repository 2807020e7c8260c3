"""Learning-rate schedules over the whole of a training, whose length the trainer tells."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class LengthAwareSchedule(LRScheduler):
    """Base of schedules that need to know how many steps the training has; a system tells them.

    Args:
        optimizer: whose rates are set.
        total_steps: the training's length in optimiser steps; told by the system when left out.
        last_epoch: the last step that was done, -1 before the first.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None, last_epoch: int = -1) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer, last_epoch)

    def set_total_steps(self, total_steps: float) -> None:
        """Tells the training's length, unless the constructor did, and sets the rate of the present step anew.

        Raises:
            ValueError: the training has no end.
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
        """What the base rate is multiplied by at a share of the training from 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__} must define factor(progress)")

    def state_dict(self) -> dict[str, Any]:
        """As torch's, without the length: a resumed training may be longer than the one that was saved."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}

    def get_lr(self) -> list[float]:  # type: ignore[override] # tensors are rates too, not here
        """The rates of the present step."""
        progress = 0.0 if self.total_steps is None else min(self.last_epoch / max(self.total_steps, 1), 1.0)
        return [float(rate) * self.factor(progress) for rate in self.base_lrs]


class WarmupCosine(LengthAwareSchedule):
    """Rises linearly from near nothing, then falls along half a cosine.

    Args:
        optimizer: whose rates are set.
        warmup: share of the training in which the rate rises.
        final: what share of the base rate is left at the end.
        total_steps: the training's length in optimiser steps; told by the system when left out.
        last_epoch: the last step that was done, -1 before the first.

    Raises:
        ValueError: a share outside [0, 1].

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
        for name, share in (("warmup", warmup), ("final", final)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is a share and must lie in [0, 1], got {share}")
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
    """The schedule of "Attention Is All You Need": rises for some steps, then falls with the root of the step.

    ::

        rate = base · D^-0.5 · min(step^-0.5, step · warmup_steps^-1.5)

    The optimiser's own rate is the factor ``base``; 1 is the paper's.

    Args:
        optimizer: whose rates are set.
        dim: D of the model.
        warmup_steps: steps until the highest rate, which is base / sqrt(D · warmup_steps).
        last_epoch: the last step that was done, -1 before the first.

    Raises:
        ValueError: a number below 1.

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

    def get_lr(self) -> list[float]:  # type: ignore[override] # tensors are rates too, not here
        """The rates of the present step."""
        step = self.last_epoch + 1
        factor = self.dim**-0.5 * min(step**-0.5, step * self.warmup_steps**-1.5)
        return [float(rate) * factor for rate in self.base_lrs]
