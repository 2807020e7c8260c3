from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from lightning_modules.cli.run_report import next_commands, print_metrics, shown

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import (
        MakeCaptioner,
        MakeClassifier,
        MakeTranslator,
        RunCommand,
        Trained,
    )


def test_metrics_are_one_table_without_single_steps(capsys: pytest.CaptureFixture[str]) -> None:
    metrics: dict[str, torch.Tensor | float] = {
        "train/loss": 0.5,
        "train/loss_step": 0.25,
        "train/loss_epoch": 0.75,
        "val/bleu": torch.tensor(41.5),
    }
    print_metrics(metrics)
    rows = [line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [(name.strip(), float(value)) for name, value in rows] == [("train/loss", 0.75), ("val/bleu", 41.5)]


def test_fit_says_where_everything_is_and_its_commands_can_be_pasted(
    run_command: RunCommand, tiny_digits: list[str]
) -> None:
    ran = run_command("fit", *tiny_digits)
    assert ran.cli is not None
    folder = Path("runs") / "vit_digits" / "version_0"
    files, _, commands = ran.out.partition("\nNext:\n")
    for file in ("metrics.csv", "loss_curve.png", "config.yaml"):
        assert str(folder / file) in files
    [checkpoint] = folder.glob("checkpoints/*.ckpt")
    assert str(checkpoint) in files
    image = Path("digit.png")
    printed = [shlex.split(line) for line in commands.strip().splitlines()]
    assert [words[1] for words in printed] == ["test", "classify", "plot"]
    for words in printed:
        again = run_command(*(str(image) if word == "IMAGE" else word for word in words[1:]))
        if words[1] == "test":
            assert again.cli is not None
            assert str(Path("runs") / "vit_digits" / "version_1") in again.out
            assert again.out.count("test/accuracy") == 1
        else:
            assert again.code is None, again.err


@pytest.fixture(autouse=True)
def _picture(picture: Path) -> None:
    """The working directory has an image."""


def test_the_next_commands_fit_the_system(
    make_classifier: MakeClassifier, make_captioner: MakeCaptioner, make_translator: MakeTranslator
) -> None:
    for system, name in (
        (make_classifier(), "classify"),
        (make_captioner(), "caption"),
        (make_translator(), "translate"),
    ):
        commands = [shlex.split(command) for command in next_commands(system, "my runs/a.ckpt", None)]
        assert [words[1] for words in commands] == [name, "plot"]
        assert all("my runs/a.ckpt" in words for words in commands)


def test_paths_are_relative_below_the_working_directory(tmp_path: Path) -> None:
    assert shown(tmp_path / "runs" / "a.ckpt") == str(Path("runs") / "a.ckpt")
    assert shown("/elsewhere/a.ckpt") == "/elsewhere/a.ckpt"


def test_evaluation_prints_each_metric_once(run_command: RunCommand, trained: Trained, tiny_digits: list[str]) -> None:
    ran = run_command("validate", *tiny_digits, "--ckpt_path", trained.checkpoint)
    assert ran.out.count("val/accuracy") == 1
