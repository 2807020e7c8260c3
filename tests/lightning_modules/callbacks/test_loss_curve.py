"""The loss curve as a picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure

from lightning_modules import LossCurve
from tests.lightning_modules.pictures import assert_picture

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier, MakeLoader, MakeTrainer


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
    trainer = make_trainer(CSVLogger(tmp_path, "curve"), fast_dev_run=True, callbacks=[curve])
    trainer.fit(make_classifier(), make_loader(), make_loader())
    assert curve.path is None
    assert not list(tmp_path.rglob("*.png"))
