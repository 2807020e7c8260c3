"""Figures: where they go in training, and a picture with a map laid over it."""

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
    """There is nothing to draw: a system has no attention."""


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
    for row, (image, heat) in enumerate(zip(images, maps, strict=True)):
        _show(axes[row][0], image, "" if titles is None else titles[row])
        _show(axes[row][1], image, "")
        _lay_over(axes[row][1], image, heat)
    return figure


def _show(axis: Axes, image: Tensor, title: str) -> None:
    """An image, (C, H, W), without numbers at its sides."""
    picture = image.float().cpu().permute(1, 2, 0)
    picture = picture.expand(-1, -1, 3) if picture.size(2) == 1 else picture
    axis.imshow(picture.clamp(0, 1).numpy())
    axis.set_axis_off()
    axis.set_title(title, fontsize="x-small")


def _lay_over(axis: Axes, image: Tensor, heat: Tensor) -> None:
    """A map, (rows, columns), not negative, stretched over an image of another size; black is nothing."""
    height, width = image.shape[-2:]
    axis.imshow(
        heat.float().cpu().numpy(),
        cmap=matplotlib.colormaps["inferno"],
        vmin=0.0,  # or what is even would look as uneven as any
        alpha=0.6,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="bilinear",
    )


def gates(images: Tensor, found: Mapping[str, Tensor], titles: Sequence[str]) -> Figure:
    """Draws each image, and beside it every gate: of places as a map over it, of channels as bars.

    Args:
        images: (B, C, H, W), values from 0 to 1, C of 1 or 3.
        found: gates by the name of their block: (B, channels, 1, 1), (B, 1, rows, columns), both in one, of which the
            means are drawn, or with an axis of paths, of which the first is drawn.
        titles: one an image.

    Example:
        >>> import torch
        >>> figure = gates(torch.rand(2, 3, 16, 16), {"se": torch.rand(2, 8, 1, 1)}, ["cat", "dog"])
        >>> len(figure.axes), figure.axes[1].get_title()
        (4, 'se')
    """
    figure = Figure(figsize=(2.3 * (1 + len(found)), 2.5 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), 1 + len(found), squeeze=False)
    for row, (image, title) in enumerate(zip(images, titles, strict=True)):
        _show(axes[row][0], image, title)
        for column, (name, gate) in enumerate(found.items(), start=1):
            axis, one = axes[row][column], gate[row].float().cpu()
            if one.ndim == 4:
                name, one = f"{name}, path 1 of {len(one)}", one[0]
            if one.shape[1:] == (1, 1):
                axis.bar(range(len(one)), one.flatten().numpy(), width=1.0)
                axis.set_ylim(0.0, max(1.0, one.max().item()))
                axis.set_title(name, fontsize="x-small")
            else:
                heat = one.mean(0)
                _show(axis, image, f"{name}\n{heat.min():.2f} to {heat.max():.2f}")
                _lay_over(axis, image, heat)
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


PICTURES_A_LINE = 7


def words_over_image(images: Tensor, maps: Sequence[Tensor], words: Sequence[Sequence[str]]) -> Figure:
    """Draws each image by itself, then once a word, with what was looked at for that word lit up.

    Args:
        images: (B, C, H, W), values from 0 to 1, C of 1 or 3.
        maps: for each image its maps, (T, rows, columns), not negative.
        words: for each image its words; maps of more than these, such as of the end of sentence, are left out.

    Example:
        >>> import torch
        >>> figure = words_over_image(torch.rand(1, 3, 16, 16), [torch.rand(2, 4, 4)], [["a", "dog"]])
        >>> [axis.get_title() for axis in figure.axes if axis.images]
        ['', 'a', 'dog']
    """
    lines = [-(-(1 + len(told)) // PICTURES_A_LINE) for told in words]
    figure = Figure(figsize=(1.6 * PICTURES_A_LINE, 1.85 * sum(lines)), layout="constrained")
    axes = figure.subplots(sum(lines), PICTURES_A_LINE, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for image, told, heats, line in zip(images, words, maps, np.cumsum([0, *lines[:-1]]), strict=True):
        places = axes[line:].flat
        _show(next(places), image, "")
        for word, heat in zip(told, heats, strict=False):
            axis = next(places)
            _show(axis, image, "")
            axis.set_title(word, fontsize="small", parse_math=False)
            _lay_over(axis, image, heat)
    return figure
