"""Figures of attention, and logging of figures and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor


class NoAttentionError(ValueError):
    """Raised when a system has no attention to draw."""


def log_figure(trainer: Trainer, name: str, figure: Figure) -> Path | None:
    """Logs a figure to every logger of a trainer; for loggers other than TensorBoard and W&B it is saved as a PNG.

    Args:
        trainer: owns the loggers.
        name: such as "test/confusion_matrix"; the file is named after it and the step.
        figure: the figure.

    Returns:
        The PNG file, or ``None`` if none was saved.
    """
    path = None
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure, trainer.global_step, close=False)
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [figure])
            elif logger.log_dir is not None:
                path = Path(logger.log_dir) / "figures" / f"{name.replace('/', '_')}-{trainer.global_step}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(path)
    return path


def log_text(trainer: Trainer, name: str, text: str) -> None:
    """Logs Markdown to every logger of a trainer; for loggers other than TensorBoard it is appended to a file.

    Args:
        trainer: owns the loggers.
        name: such as "translations"; the file is named after it.
        text: Markdown.
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
    """Draws each image, and next to it the image overlaid with its attention map.

    Args:
        images: (B, C, H, W), values in [0, 1], C of 1 or 3.
        maps: attention maps, (B, rows, columns), not negative; resized to the images' size.
        titles: one per image; defaults to none.

    Example:
        >>> import torch
        >>> overlay(torch.rand(2, 3, 16, 16), torch.rand(2, 4, 4), ["cat", "dog"]).axes[2].get_title()
        'dog'
    """
    count = len(images)
    figure = Figure(figsize=(4.4, 2.3 * count), layout="constrained")
    axes = figure.subplots(count, 2, squeeze=False)
    for row, (image, heat) in enumerate(zip(images, maps, strict=True)):
        _show(axes[row][0], image, "" if titles is None else titles[row])
        _show(axes[row][1], image, "")
        _lay_over(axes[row][1], image, heat)
    return figure


def _show(axis: Axes, image: Tensor, title: str) -> None:
    """Draws an image, (C, H, W), without axes."""
    picture = image.float().cpu().permute(1, 2, 0)
    picture = picture.expand(-1, -1, 3) if picture.size(2) == 1 else picture
    axis.imshow(picture.clamp(0, 1).numpy())
    axis.set_axis_off()
    axis.set_title(title, fontsize="x-small")


def _lay_over(axis: Axes, image: Tensor, heat: Tensor) -> None:
    """Draws a map, (rows, columns), not negative, over an image; black is 0."""
    height, width = image.shape[-2:]
    axis.imshow(
        heat.float().cpu().numpy(),
        cmap=matplotlib.colormaps["inferno"],
        vmin=0.0,  # so that a uniform map looks uniform
        alpha=0.6,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="bilinear",
    )


def gates(images: Tensor, by_name: Mapping[str, Tensor], titles: Sequence[str]) -> Figure:
    """Draws each image, and next to it its gates: spatial gates over the image, channel gates as bars.

    Args:
        images: (B, C, H, W), values in [0, 1], C of 1 or 3.
        by_name: gates by the name of their block: of channels, (B, channels, 1, 1); spatial, (B, 1, rows, columns); or
            both, (B, channels, rows, columns), drawn as the mean over channels. Of gates with an axis of paths,
            (B, paths, channels, rows, columns), the first path is drawn.
        titles: one per image.

    Example:
        >>> import torch
        >>> figure = gates(torch.rand(2, 3, 16, 16), {"se": torch.rand(2, 8, 1, 1)}, ["cat", "dog"])
        >>> len(figure.axes), figure.axes[1].get_title()
        (4, 'se')
    """
    figure = Figure(figsize=(2.3 * (1 + len(by_name)), 2.5 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), 1 + len(by_name), squeeze=False)
    for row, (image, title) in enumerate(zip(images, titles, strict=True)):
        _show(axes[row][0], image, title)
        for column, (name, gate) in enumerate(by_name.items(), start=1):
            axis, values = axes[row][column], gate[row].float().cpu()
            if values.ndim == 4:
                name, values = f"{name}, path 1 of {len(values)}", values[0]
            if values.shape[1:] == (1, 1):
                axis.bar(range(len(values)), values.flatten().numpy(), width=1.0)
                axis.set_ylim(0.0, max(1.0, values.max().item()))
                axis.set_title(name, fontsize="x-small")
            else:
                heat = values.mean(0)
                _show(axis, image, f"{name}\n{heat.min():.2f} to {heat.max():.2f}")
                _lay_over(axis, image, heat)
    return figure


def alignment(weights: Sequence[Tensor], sources: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> Figure:
    """Draws the cross-attention map of each sentence, one panel below the other.

    Args:
        weights: attention map of each sentence, (T_q, T_k).
        sources: T_k source tokens of each sentence.
        targets: T_q generated tokens of each sentence.

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
        # Without parse_math=False, a token with two dollar signs would be set as a formula.
        axis.set_xticks(range(len(source)), source, rotation=60, ha="left", rotation_mode="anchor", parse_math=False)
        axis.set_yticks(range(len(target)), target, parse_math=False)
        axis.xaxis.tick_top()
    return figure


PANELS_PER_ROW = 7


def words_over_image(images: Tensor, maps: Sequence[Tensor], words: Sequence[Sequence[str]]) -> Figure:
    """Draws each image, followed by one panel per generated word with the word's attention map over the image.

    Args:
        images: (B, C, H, W), values in [0, 1], C of 1 or 3.
        maps: attention maps of each image, (T, rows, columns), not negative.
        words: words of each image; maps beyond these, such as that of the end of the sentence, are not drawn.

    Example:
        >>> import torch
        >>> figure = words_over_image(torch.rand(1, 3, 16, 16), [torch.rand(2, 4, 4)], [["a", "dog"]])
        >>> [axis.get_title() for axis in figure.axes if axis.images]
        ['', 'a', 'dog']
    """
    rows = [-(-(1 + len(caption)) // PANELS_PER_ROW) for caption in words]  # of panels, per image
    figure = Figure(figsize=(1.6 * PANELS_PER_ROW, 1.85 * sum(rows)), layout="constrained")
    axes = figure.subplots(sum(rows), PANELS_PER_ROW, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for image, caption, heats, row in zip(images, words, maps, np.cumsum([0, *rows[:-1]]), strict=True):
        panels = axes[row:].flat
        _show(next(panels), image, "")
        for word, heat in zip(caption, heats, strict=False):
            axis = next(panels)
            _show(axis, image, "")
            axis.set_title(word, fontsize="small", parse_math=False)
            _lay_over(axis, image, heat)
    return figure
