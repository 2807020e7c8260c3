from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from lightning_modules.plots.figures import alignment, log_figure, log_text, overlay, words_over_image

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeTrainer


def a_figure() -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def test_tensorboard_receives_the_figure(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    logger = TensorBoardLogger(tmp_path, "board")
    trainer = make_trainer(logger)
    assert log_figure(trainer, "test/attention", a_figure()) is None
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    [image] = events.Images("test/attention")
    assert (image.width, image.height, image.step) == (300, 200, 0)
    assert not list(tmp_path.rglob("*.png"))


def test_other_loggers_get_a_picture_in_their_folder(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(CSVLogger(tmp_path, "csv"))
    written = log_figure(trainer, "test/confusion_matrix", a_figure())
    assert written == tmp_path / "csv" / "version_0" / "figures" / "test_confusion_matrix-0.png"
    with Image.open(written) as image:
        assert image.size == (300, 200)
        assert len(np.unique(np.asarray(image))) > 2


def test_wandb_receives_the_figure(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    logger = create_autospec(WandbLogger, instance=True)
    trainer.loggers = [logger]
    figure = a_figure()
    assert log_figure(trainer, "attention", figure) is None
    logger.log_image.assert_called_once_with("attention", [figure])


def test_every_logger_gets_it(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.loggers = [TensorBoardLogger(tmp_path, "board"), CSVLogger(tmp_path, "csv")]
    written = log_figure(trainer, "attention", a_figure())
    assert written is not None
    assert written.is_file()
    assert list((tmp_path / "board").rglob("events*"))


def test_without_a_logger_nothing_is_written(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    assert log_figure(make_trainer(), "attention", a_figure()) is None
    assert log_figure(make_trainer(fast_dev_run=True), "attention", a_figure()) is None
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_shows_images_and_attention_maps_over_them(channels: int) -> None:
    images, maps = torch.rand(2, channels, 8, 12), torch.rand(2, 2, 3)
    figure = overlay(images, maps, ["ant", "bee"])
    assert [axis.get_title() for axis in figure.axes] == ["ant", "", "bee", ""]
    for row in range(2):
        plain, laid = figure.axes[2 * row : 2 * row + 2]
        for axis in (plain, laid):
            shown = np.asarray(axis.images[0].get_array())
            expected = images[row].expand(3, -1, -1).permute(1, 2, 0)
            np.testing.assert_allclose(shown, expected.numpy(), atol=1e-6)
        heat = laid.images[1]
        np.testing.assert_allclose(np.asarray(heat.get_array()), maps[row].numpy(), atol=1e-6)
        assert tuple(heat.get_extent()) == (-0.5, 11.5, 7.5, -0.5)  # as far as the image under it


def test_an_overlay_needs_no_titles_and_accepts_half_precision() -> None:
    figure = overlay(torch.rand(1, 3, 4, 4).bfloat16(), torch.rand(1, 2, 2).bfloat16())
    assert [axis.get_title() for axis in figure.axes] == ["", ""]
    figure.canvas.draw()


def test_an_overlay_of_unequal_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        overlay(torch.rand(2, 3, 4, 4), torch.rand(1, 2, 2))


def test_tensorboard_receives_text(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    logger = TensorBoardLogger(tmp_path, "board")
    log_text(make_trainer(logger), "translations", "- source: größer")
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    [text] = events.Tensors("translations/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "- source: größer"
    assert not list(tmp_path.rglob("*.md"))


def test_other_loggers_get_text_added_to_a_file(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(CSVLogger(tmp_path, "csv"))
    for text in ("first", "größer"):
        log_text(trainer, "translations", text)
    written = tmp_path / "csv" / "version_0" / "translations.md"
    assert written.read_text(encoding="utf-8") == "## step 0\n\nfirst\n\n## step 0\n\ngrößer\n\n"


def test_without_a_logger_no_text_is_written(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    log_text(make_trainer(), "translations", "nothing")
    assert not list(tmp_path.rglob("*.md"))


def test_an_alignment_has_a_row_per_target_token_and_a_column_per_source_token() -> None:
    maps = [torch.rand(2, 3), torch.rand(4, 1)]
    sources, targets = [["ein", "Haus", "."], ["ja"]], [["a", "house"], ["y", "e", "s", "!"]]
    figure = alignment(maps, sources, targets)
    assert len(figure.axes) == 2
    for axis, heat, source, target in zip(figure.axes, maps, sources, targets, strict=True):
        [image] = axis.images
        np.testing.assert_allclose(np.asarray(image.get_array()), heat.numpy(), atol=1e-6)
        assert image.get_clim() == (0.0, 1.0)  # so that pictures can be compared
        assert [label.get_text() for label in axis.get_xticklabels()] == source
        assert [label.get_text() for label in axis.get_yticklabels()] == target
        assert list(axis.get_xticks()) == list(range(len(source)))
        assert list(axis.get_yticks()) == list(range(len(target)))


def test_tokens_are_drawn_literally_and_half_precision_is_accepted(tmp_path: Path) -> None:
    tokens = ["$x$", "$\\frac{$", "a_b", "%", "<eos>"]
    figure = alignment([torch.eye(5).bfloat16()], [tokens], [tokens])
    figure.savefig(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        assert min(image.size) > 100


def test_an_alignment_of_unequal_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        alignment([torch.eye(1)], [["a"], ["b"]], [["a"]])


def test_each_word_has_its_attention_map_over_its_image() -> None:
    images, maps = torch.rand(2, 1, 8, 12), [torch.rand(9, 2, 3), torch.rand(2, 2, 3).bfloat16()]
    words = [["a", "$b$", "c", "d", "e", "f", "g", "h"], ["dog"]]  # more maps than words: the end has one too
    figure = words_over_image(images, maps, words)
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in shown] == ["", *words[0], "", "dog"]
    for axis, image, heat in zip(
        [*shown[1:9], shown[10]], [images[0]] * 8 + [images[1]], [*maps[0][:8], maps[1][0]], strict=True
    ):
        under, over = axis.images
        np.testing.assert_allclose(np.asarray(under.get_array())[:, :, 0], image[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(np.asarray(over.get_array()), heat.float().numpy(), atol=1e-6)
        assert tuple(over.get_extent()) == (-0.5, 11.5, 7.5, -0.5)
    # An image begins a line of its own.
    grid = [spec.rowspan.start for axis in shown if (spec := axis.get_subplotspec()) is not None]
    assert grid == [0] * 7 + [1] * 2 + [2] * 2
    figure.canvas.draw()
