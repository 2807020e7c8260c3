"""Freezing of the backbone for some epochs, or throughout training."""

from __future__ import annotations

from collections.abc import Sequence

from lightning import Callback, LightningModule, Trainer
from torch import nn

from lightning_modules.system.system import System


class FreezeBackbone(Callback):
    """Freezes the backbone for some epochs, so that only the head is trained, then trains everything.

    The modules of :meth:`System.layers` are frozen and in evaluation mode (no dropout, constant running statistics);
    all others, such as the head and newly inserted attention, are trained. Training on several devices needs
    ``--trainer.strategy ddp_find_unused_parameters_true`` unless ``epochs`` is -1.

    Args:
        epochs: number of epochs for which the backbone is frozen; -1 for all.

    Raises:
        ValueError: ``epochs`` is less than -1; or, when training starts, the system has no layers.

    Example:
        >>> FreezeBackbone(epochs=2).epochs
        2
    """

    def __init__(self, epochs: int) -> None:
        if epochs < -1:
            raise ValueError(f"epochs must be 0 or more, or -1 for all of them, got {epochs}")
        self.epochs = epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """With ``epochs=-1``, freezes before DDP collects the parameters to synchronise."""
        if stage == "fit" and self.epochs == -1:
            for layer in _backbone(pl_module):
                layer.requires_grad_(False)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freezes or unfreezes the backbone; Lightning has put every module into training mode before."""
        frozen = self.epochs == -1 or trainer.current_epoch < self.epochs
        for layer in _backbone(pl_module):
            layer.requires_grad_(not frozen)
            layer.train(not frozen)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreezes the backbone for any training that follows."""
        for layer in _backbone(pl_module):
            layer.requires_grad_(True)


def _backbone(system: LightningModule) -> Sequence[nn.Module]:
    """The layers of a system.

    Raises:
        ValueError: it has none.
    """
    layers = system.layers() if isinstance(system, System) else []
    if not layers:
        raise ValueError(
            f"{type(system).__name__} defines no layers(), so it has no backbone to freeze; define layers() or leave "
            "FreezeBackbone out"
        )
    return layers
