"""Attention maps of validation images and sentences in the logger."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import lightning_modules.callbacks.attention_maps
from datamodules import ImageTransform
from lightning_modules import AttentionMapLogger, ConvClassifier, SmallResNet
from lightning_modules.callbacks.attention_maps import draw_attention
from tests.lightning_modules.pictures import assert_picture

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier, MakeLoader, MakeTextLoader, MakeTrainer, MakeTranslator


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2])])
def test_attention_is_logged_every_n_epochs(
    every: int,
    epochs: list[int],
    tmp_path: Path,
    make_classifier: MakeClassifier,
    make_trainer: MakeTrainer,
    make_loader: MakeLoader,
) -> None:
    callback = AttentionMapLogger(num_images=2, every_n_epochs=every)
    trainer = make_trainer(CSVLogger(tmp_path, "maps"), max_epochs=4, callbacks=[callback])
    trainer.fit(make_classifier(), make_loader(16), make_loader(16))
    pictures = sorted((tmp_path / "maps" / "version_0" / "figures").iterdir())
    # Validation follows the two steps of an epoch.
    assert [picture.name for picture in pictures] == [f"attention-{2 * epoch + 2}.png" for epoch in epochs]
    for picture in pictures:
        assert_picture(picture)


def test_attention_is_logged_to_tensorboard(
    tmp_path: Path, make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    logger = TensorBoardLogger(tmp_path, "board")
    make_trainer(logger, callbacks=[AttentionMapLogger()]).fit(make_classifier(), make_loader(), make_loader())
    [image] = EventAccumulator(logger.log_dir).Reload().Images("attention")
    assert min(image.width, image.height) > 100


def test_the_first_images_of_the_first_batch_are_drawn_and_training_is_unchanged(
    monkeypatch: pytest.MonkeyPatch,
    make_classifier: MakeClassifier,
    make_trainer: MakeTrainer,
    make_loader: MakeLoader,
    tmp_path: Path,
) -> None:
    drawn: list[torch.Tensor] = []

    def draw(system: LightningModule, images: torch.Tensor) -> Figure:
        drawn.append(images)
        figure = draw_attention(system, images)
        assert not system.training  # as always in validation
        return figure

    monkeypatch.setattr(lightning_modules.callbacks.attention_maps, "draw_attention", draw)
    with_maps, without = make_classifier(), make_classifier()
    without.load_state_dict(with_maps.state_dict())
    loader = make_loader(16, 8)
    logger = CSVLogger(tmp_path, "maps")
    make_trainer(logger, max_epochs=2, callbacks=[AttentionMapLogger(num_images=3)]).fit(with_maps, loader, loader)
    make_trainer(max_epochs=2).fit(without, loader, loader)
    first, _ = next(iter(loader))
    assert len(drawn) == 2
    assert all(torch.equal(images, first[:3]) for images in drawn)
    for name, value in with_maps.state_dict().items():
        assert torch.equal(value, without.state_dict()[name]), name


@pytest.mark.parametrize("name", ["num_images", "every_n_epochs"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} .* got 0"):
        AttentionMapLogger(**{name: 0})


def test_a_system_without_a_plot_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LightningModule .* plot\(images\)"):
        draw_attention(LightningModule(), torch.zeros(1, 1, 8, 8))


def test_a_trial_run_leaves_no_picture(
    tmp_path: Path, make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    trainer = make_trainer(CSVLogger(tmp_path, "maps"), fast_dev_run=True, callbacks=[AttentionMapLogger()])
    trainer.fit(make_classifier(), make_loader(), make_loader())
    assert not list(tmp_path.rglob("*.png"))


def test_alignments_of_sentences_are_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_translator: MakeTranslator,
    make_trainer: MakeTrainer,
    make_text_loader: MakeTextLoader,
) -> None:
    drawn: list[list[str]] = []

    def draw(system: LightningModule, texts: list[str]) -> Figure:
        drawn.append(texts)
        return draw_attention(system, texts)

    monkeypatch.setattr(lightning_modules.callbacks.attention_maps, "draw_attention", draw)
    loader = make_text_loader()
    trainer = make_trainer(CSVLogger(tmp_path, "maps"), callbacks=[AttentionMapLogger(num_images=2)])
    trainer.fit(make_translator(), loader, loader)
    assert drawn == [["der Hund sieht ein Vogel .", "ein Mann singt"]]
    [picture] = tmp_path.rglob("attention-4.png")
    assert_picture(picture)


def test_a_system_without_attention_trains_without_pictures(
    make_trainer: MakeTrainer, make_loader: MakeLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a recipe whose attention was turned off on the command line."""
    model = ConvClassifier(3, ImageTransform(8, channels=1), partial(SmallResNet, widths=(4,), depth=1))
    trainer = make_trainer(CSVLogger(tmp_path, "maps"), callbacks=[AttentionMapLogger()])
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer.fit(model, make_loader(), make_loader())
    assert "AttentionMapLogger" in caplog.text
    assert not (tmp_path / "maps" / "version_0" / "figures").exists()
