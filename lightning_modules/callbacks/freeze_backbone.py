"""A backbone that is frozen for some epochs, or for good."""

from __future__ import annotations

from collections.abc import Sequence

from lightning import Callback, LightningModule, Trainer
from torch import nn

from lightning_modules.system.system import System


class FreezeBackbone(Callback):
    """Trains the head alone for some epochs, then everything.

    What a system's ``layers()`` names stands still, with its running means and its dropout, until then; what it does
    not name, the head and newly inserted attention, learns. Several devices want
    ``--trainer.strategy ddp_find_unused_parameters_true``, unless it stands still for good.

    Args:
        epochs: for how many epochs; -1 for good.

    Raises:
        ValueError: fewer than -1; or, once the training starts, the system names no layers.

    Example:
        >>> FreezeBackbone(epochs=2).epochs
        2
    """

    def __init__(self, epochs: int) -> None:
        if epochs < -1:
            raise ValueError(f"epochs must be 0 or more, or -1 for all of them, got {epochs}")
        self.epochs = epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freezes for good what shall be, before several devices agree on what they train."""
        if stage == "fit" and self.epochs == -1:
            for layer in _backbone(pl_module):
                layer.requires_grad_(False)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freezes, or thaws when the time has come; Lightning has put everything into training mode before."""
        frozen = self.epochs == -1 or trainer.current_epoch < self.epochs
        for layer in _backbone(pl_module):
            layer.requires_grad_(not frozen)
            layer.train(not frozen)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Thaws: what is trained next may be everything."""
        for layer in _backbone(pl_module):
            layer.requires_grad_(True)


def _backbone(system: LightningModule) -> Sequence[nn.Module]:
    layers = system.layers() if isinstance(system, System) else []
    if not layers:
        raise ValueError(f"{type(system).__name__} names no layers(), so it has no backbone to freeze")
    return layers
