from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import lightning_modules.callbacks.attention_maps
from datamodules import ImageTransform
from lightning_modules import (
    AttentionMapLogger,
    BeamSearch,
    ConvClassifier,
    LossCurve,
    SmallResNet,
    TranslationLogger,
)
from lightning_modules.callbacks.attention_maps import draw_attention

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import (
        MakeClassifier,
        MakeLoader,
        MakeTextBatch,
        MakeTextLoader,
        MakeTrainer,
        MakeTranslator,
    )


def assert_picture(path: Path) -> None:
    with Image.open(path) as image:
        assert min(image.size) > 100
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2])])
def test_attention_is_logged_after_every_so_many_epochs(
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


def test_the_first_images_of_the_first_batch_are_drawn_and_training_goes_on_as_if_not(
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
        assert not system.training  # as it is in validation
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
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, got 0"):
        AttentionMapLogger(**{name: 0})


def test_a_system_without_a_plot_is_named() -> None:
    with pytest.raises(ValueError, match=r"LightningModule has no plot\(images\)"):
        draw_attention(LightningModule(), torch.zeros(1, 1, 8, 8))


def test_the_loss_curve_shows_the_losses_of_every_epoch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_classifier: MakeClassifier,
    make_trainer: MakeTrainer,
    make_loader: MakeLoader,
) -> None:
    saved: list[Figure] = []
    save = Figure.savefig

    def noted(figure: Figure, *arguments: object, **named: object) -> None:
        saved.append(figure)
        save(figure, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", noted)
    curve = LossCurve()
    trainer = make_trainer(CSVLogger(tmp_path, "curve"), max_epochs=3, callbacks=[curve])
    trainer.fit(make_classifier(), make_loader(), make_loader())
    version = tmp_path / "curve" / "version_0"
    assert curve.path == version / "loss_curve.png"
    assert_picture(curve.path)
    with (version / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = {line.get_label(): line for line in saved[-1].axes[0].lines}
    assert lines.keys() == {"train/loss_epoch", "val/loss"}
    for name, line in lines.items():
        expected = [float(row[name]) for row in rows if row[name]]
        assert line.get_xdata() == pytest.approx([0, 1, 2])
        assert line.get_ydata() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("validated", [True, False])
def test_the_loss_curve_without_a_logger_is_in_the_trainers_folder(
    validated: bool,
    tmp_path: Path,
    make_classifier: MakeClassifier,
    make_trainer: MakeTrainer,
    make_loader: MakeLoader,
) -> None:
    curve = LossCurve()
    make_trainer(callbacks=[curve]).fit(make_classifier(), make_loader(), make_loader() if validated else None)
    assert curve.path == tmp_path / "loss_curve.png"
    assert_picture(curve.path)


def test_a_trial_run_leaves_no_picture(
    tmp_path: Path, make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    curve = LossCurve()
    trainer = make_trainer(CSVLogger(tmp_path, "curve"), fast_dev_run=True, callbacks=[curve, AttentionMapLogger()])
    trainer.fit(make_classifier(), make_loader(), make_loader())
    assert curve.path is None
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


def test_translations_are_logged_after_each_epoch(
    tmp_path: Path,
    make_translator: MakeTranslator,
    make_trainer: MakeTrainer,
    make_text_batch: MakeTextBatch,
    make_text_loader: MakeTextLoader,
) -> None:
    system, batch = make_translator("luong", strategy=BeamSearch(size=1)), make_text_batch()
    loader = make_text_loader(batch, batch)
    trainer = make_trainer(
        CSVLogger(tmp_path, "texts"),
        max_epochs=2,
        num_sanity_val_steps=1,
        callbacks=[TranslationLogger(num_sentences=2)],
    )
    trainer.fit(system, loader, loader)
    written = (tmp_path / "texts" / "version_0" / "translations.md").read_text(encoding="utf-8")
    first, second = written.split("## step ")[1:]
    assert (first[0], second[0]) == ("2", "4")
    lines = [line.removeprefix("- ") for line in second.splitlines()[1:] if line]
    expected = []
    for source, target, text in zip(
        batch.source_texts, batch.target_texts, system.translate(batch.source_texts), strict=True
    ):
        expected += [f"source: {source}", f"reference: {target}", f"translation: {text}"]
    assert lines == expected[:6]


def test_logging_translations_changes_no_training(
    tmp_path: Path, make_translator: MakeTranslator, make_trainer: MakeTrainer, make_text_loader: MakeTextLoader
) -> None:
    logged, plain, loader = make_translator(), make_translator(), make_text_loader()
    plain.load_state_dict(logged.state_dict())
    callbacks = [TranslationLogger(), AttentionMapLogger()]
    make_trainer(CSVLogger(tmp_path, "texts"), max_epochs=2, callbacks=callbacks).fit(logged, loader, loader)
    make_trainer(max_epochs=2).fit(plain, loader, loader)
    for name, value in logged.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_what_does_not_translate_is_named(
    make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    trainer = make_trainer(callbacks=[TranslationLogger()], num_sanity_val_steps=0)
    with pytest.raises(ValueError, match="TranslationLogger needs a system that translates, got ViTClassifier"):
        trainer.fit(make_classifier(), make_loader(), make_loader())
    with pytest.raises(ValueError, match="num_sentences must be 1 or more, got 0"):
        TranslationLogger(num_sentences=0)


def test_a_system_without_attention_is_trained_all_the_same(
    make_trainer: MakeTrainer, make_loader: MakeLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a recipe is whose attention was turned off on the command line."""
    model = ConvClassifier(3, ImageTransform(8, channels=1), partial(SmallResNet, widths=(4,), depth=1))
    trainer = make_trainer(CSVLogger(tmp_path, "maps"), callbacks=[AttentionMapLogger()])
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer.fit(model, make_loader(), make_loader())
    assert "AttentionMapLogger draws nothing: there is no attention in this network" in caplog.text
    assert not (tmp_path / "maps" / "version_0" / "figures").exists()
