"""Plot of the training and validation loss."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from matplotlib.figure import Figure


class LossCurve(Callback):
    """Saves ``loss_curve.png``, the training and validation loss by epoch, when training ends.

    Attributes:
        path: the file, once it is saved.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._losses: dict[str, list[tuple[int, float]]] = {"train/loss_epoch": [], "val/loss": []}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the losses of the epoch."""
        for name, points in self._losses.items():
            if name in trainer.callback_metrics:
                points.append((trainer.current_epoch, float(trainer.callback_metrics[name])))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the plot in the logger's folder, or without a logger in the trainer's."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # collective: called in every process
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):  # a fast_dev_run leaves no files
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
