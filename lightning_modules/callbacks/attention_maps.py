"""Callbacks: attention maps and translations into the logger, the loss curve as a picture, a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import STEP_OUTPUT
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.images.image_transform import RawImage
from datamodules.text.text_batch import TextBatch
from lightning_modules.plots.figures import NoAttentionError, log_figure


def draw_attention(system: LightningModule, images: Sequence[RawImage] | Tensor) -> Figure:
    """What a system's attention looks at, by its own ``plot(images)``.

    Raises:
        ValueError: the system has no such method.
    """
    plot = getattr(system, "plot", None)
    if not callable(plot):
        raise ValueError(f"{type(system).__name__} has no plot(images), so its attention cannot be drawn")
    return cast(Figure, plot(images))


class AttentionMapLogger(Callback):
    """Logs what the attention looks at in a few validation images, after every so many epochs.

    Works with any system that has ``plot(images)``; of one without attention it draws nothing, and says so.

    Args:
        num_images: how many images.
        every_n_epochs: after how many epochs each.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, num_images: int = 4, every_n_epochs: int = 1) -> None:
        for name, number in (("num_images", num_images), ("every_n_epochs", every_n_epochs)):
            if number < 1:
                raise ValueError(f"{name} must be 1 or more, got {number}")
        self.num_images = num_images
        self.every_n_epochs = every_n_epochs

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: tuple[Tensor, ...] | TextBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws the first images, or sentences, of the first batch."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        # By every process: under FSDP a forward pass needs them all.
        if batch_idx == 0 and due and not trainer.sanity_checking:
            inputs = batch.source_texts if isinstance(batch, TextBatch) else batch[0]
            try:
                figure = draw_attention(pl_module, inputs[: self.num_images])
            except NoAttentionError as error:
                rank_zero_info(f"AttentionMapLogger draws nothing: {error}")
            else:
                log_figure(trainer, "attention", figure)
