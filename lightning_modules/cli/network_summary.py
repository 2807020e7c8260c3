"""The table of networks at the start of training."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.parameter import is_lazy


class NetworkSummary(ModelSummary):
    """Prints the modules of a system that have parameters; metrics and losses without any are omitted.

    The Trainer adds no summary of its own next to this one.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table, in the first process."""
        if not trainer.is_global_zero:
            return
        table = Table("module", "class")
        for heading in ("parameters", "trained"):
            table.add_column(heading, justify="right")
        for name, module in pl_module.named_children():
            if any(True for _ in module.parameters()):
                counts = (f"{_count(module, trained=trained):,}" for trained in (False, True))
                table.add_row(name, type(module).__name__, *counts)
        Console().print(table)


def _count(module: nn.Module, *, trained: bool) -> int:
    parameters = (one for one in module.parameters() if one.requires_grad or not trained)
    return sum(0 if is_lazy(one) else one.numel() for one in parameters)
