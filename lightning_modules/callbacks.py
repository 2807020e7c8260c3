"""Callbacks: attention maps and translations into the logger, the loss curve as a picture, a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import STEP_OUTPUT
from matplotlib.figure import Figure
from torch import Tensor, nn

from datamodules.image_transform import RawImage
from datamodules.text_batch import TextBatch
from lightning_modules.figures import NoAttentionError, log_figure, log_text
from lightning_modules.seq2seq import Seq2Seq
from lightning_modules.system import System


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


class TranslationLogger(Callback):
    """Logs what is written for a few validation sentences after each epoch, beside what should be.

    TensorBoard shows it; beside any other logger it goes to ``translations.md``.

    Args:
        num_sentences: how many.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, num_sentences: int = 5) -> None:
        if num_sentences < 1:
            raise ValueError(f"num_sentences must be 1 or more, got {num_sentences}")
        self.num_sentences = num_sentences

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: TextBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the first sentences of the first batch."""
        if batch_idx or trainer.sanity_checking:
            return
        if not isinstance(pl_module, Seq2Seq):
            raise ValueError(f"TranslationLogger needs a system that translates, got {type(pl_module).__name__}")
        sources = batch.source_texts[: self.num_sentences]
        lines = zip(sources, batch.target_texts, pl_module.translate(sources), strict=False)
        text = "\n\n".join(f"- source: {s}\n- reference: {r}\n- translation: {t}" for s, r, t in lines)
        log_text(trainer, "translations", text)


class LossCurve(Callback):
    """Writes ``loss_curve.png``, training and validation loss by epoch, when the training ends.

    Attributes:
        path: the picture, once it is written.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._losses: dict[str, list[tuple[int, float]]] = {"train/loss_epoch": [], "val/loss": []}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the epoch's losses."""
        for name, points in self._losses.items():
            if name in trainer.callback_metrics:
                points.append((trainer.current_epoch, float(trainer.callback_metrics[name])))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the picture into the logger's folder, or the trainer's where there is no logger."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asked by every process: the first tells the others
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):  # which leaves no files
            return
        figure = Figure(figsize=(6, 4), layout="constrained")
        axis = figure.subplots()
        for name, points in self._losses.items():
            axis.plot(*zip(*points, strict=True), label=name) if points else None
        axis.set(xlabel="epoch", ylabel="cross-entropy")
        axis.legend()
        self.path = folder / "loss_curve.png"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.path, dpi=150)


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
