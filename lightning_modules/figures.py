"""Figures: where they go in training, and a picture with a map laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from torch import Tensor


def log_figure(trainer: Trainer, name: str, figure: Figure) -> Path | None:
    """Gives a figure to every logger: TensorBoard and W&B show it, beside any other it is saved as a PNG.

    Args:
        trainer: whose loggers.
        name: such as "test/confusion_matrix"; the file is named after it, with the step.
        figure: what to log.

    Returns:
        The file, where one was written.
    """
    written = None
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure, trainer.global_step, close=False)
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [figure])
            elif logger.log_dir is not None:
                written = Path(logger.log_dir) / "figures" / f"{name.replace('/', '_')}-{trainer.global_step}.png"
                written.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(written)
    return written


def log_text(trainer: Trainer, name: str, text: str) -> None:
    """Gives Markdown to every logger: TensorBoard shows it, beside any other it is added to a file.

    Args:
        trainer: whose loggers.
        name: such as "translations"; the file is named after it.
        text: what to log.
    """
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(name, text, trainer.global_step)
            elif logger.log_dir is not None:
                path = Path(logger.log_dir) / f"{name}.md"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"## step {trainer.global_step}\n\n{text}\n\n")


def overlay(images: Tensor, maps: Tensor, titles: list[str] | None = None) -> Figure:
    """Draws each image beside the same image with a map over it.

    Args:
        images: (B, C, H, W), values from 0 to 1, C of 1 or 3.
        maps: (B, rows, columns), not negative; stretched to the images' size.
        titles: one an image.

    Example:
        >>> import torch
        >>> overlay(torch.rand(2, 3, 16, 16), torch.rand(2, 4, 4), ["cat", "dog"]).axes[2].get_title()
        'dog'
    """
    count = len(images)
    figure = Figure(figsize=(4.4, 2.3 * count), layout="constrained")
    axes = figure.subplots(count, 2, squeeze=False)
    for row, (image, heat) in enumerate(zip(images.float().cpu(), maps.float().cpu(), strict=True)):
        height, width = image.shape[-2:]
        picture = image.permute(1, 2, 0).expand(-1, -1, 3) if image.size(0) == 1 else image.permute(1, 2, 0)
        for axis in axes[row]:
            axis.imshow(picture.clamp(0, 1).numpy())
            axis.set_axis_off()
        axes[row][0].set_title("" if titles is None else titles[row])
        axes[row][1].imshow(
            heat.numpy(),
            cmap=matplotlib.colormaps["inferno"],
            alpha=0.6,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bilinear",
        )
    return figure


def alignment(weights: Sequence[Tensor], sources: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> Figure:
    """Draws for each sentence where each written token looked in the source, one picture below the other.

    Args:
        weights: for each sentence its map, (T_q, T_k).
        sources: for each sentence its T_k tokens.
        targets: for each sentence its T_q tokens.

    Example:
        >>> import torch
        >>> figure = alignment([torch.eye(2)], [["ein", "Haus"]], [["a", "house"]])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['a', 'house']
    """
    sizes = [
        (0.4 * len(source) + 1.2, 0.3 * len(target) + 1.0) for source, target in zip(sources, targets, strict=True)
    ]
    figure = Figure(figsize=(max(w for w, _ in sizes), sum(h for _, h in sizes)), layout="constrained")
    rows = figure.subplots(len(weights), 1, squeeze=False, gridspec_kw={"height_ratios": [h for _, h in sizes]})[:, 0]
    for axis, heat, source, target in zip(rows, weights, sources, targets, strict=True):
        axis.imshow(heat.float().cpu().numpy(), cmap="Greys", vmin=0.0, vmax=1.0)
        # A token with two dollars in it is no formula.
        axis.set_xticks(range(len(source)), source, rotation=60, ha="left", rotation_mode="anchor", parse_math=False)
        axis.set_yticks(range(len(target)), target, parse_math=False)
        axis.xaxis.tick_top()
    return figure
