"""Logging of attention maps during training."""

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
    """Figure of a system's attention, from its ``plot(images)``.

    Args:
        system: has a method ``plot``.
        images: B images, or texts for a translator.

    Raises:
        ValueError: the system has no method ``plot``.
        NoAttentionError: the system has no attention.
    """
    plot = getattr(system, "plot", None)
    if not callable(plot):
        raise ValueError(f"{type(system).__name__} has no plot(images), so its attention cannot be drawn")
    return cast(Figure, plot(images))


class AttentionMapLogger(Callback):
    """Logs attention maps of a few validation images or sentences every few epochs.

    Works with any system that has ``plot(images)``; for one without attention it prints a note instead.

    Args:
        num_images: number of images or sentences.
        every_n_epochs: number of epochs between two figures.

    Raises:
        ValueError: a number is less than 1.
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
        """Logs a figure of the first images, or sentences, of the first batch."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        # In every process, since under FSDP a forward pass needs all of them.
        if batch_idx == 0 and due and not trainer.sanity_checking:
            inputs = batch.source_texts if isinstance(batch, TextBatch) else batch[0]
            try:
                figure = draw_attention(pl_module, inputs[: self.num_images])
            except NoAttentionError as error:
                rank_zero_info(f"AttentionMapLogger draws nothing: {error}")
            else:
                log_figure(trainer, "attention", figure)
