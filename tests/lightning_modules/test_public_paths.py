"""Checkpoints name classes and functions by their public path, so that files can move."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from lightning_modules import System
from tests.lightning_modules.test_every_system import EVERY_SYSTEM, EXAMPLES

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeTrainer, RunCommand

# A module below one of our packages; classes begin with a capital letter, public functions stand in the package itself.
OF_OURS = re.compile(r"\b(attention_blocks|datamodules|lightning_modules)\.\w+\.\w+")


def texts(value: object) -> Iterator[str]:
    """Every text in a checkpoint."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from texts(item)


def assert_names_no_file(path: Path) -> None:
    found = list(texts(torch.load(path, map_location="meta", weights_only=True)))
    assert any("lightning_modules." in text for text in found)
    assert [text for text in found if OF_OURS.search(text)] == []


@EVERY_SYSTEM
def test_a_checkpoint_from_python_names_no_file(cls: type[System], make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.strategy.connect(EXAMPLES[cls].build())
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    assert_names_no_file(tmp_path / "it.ckpt")


@pytest.mark.slow
@EVERY_SYSTEM
def test_a_checkpoint_from_the_command_line_names_no_file(
    cls: type[System], run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_command(
        *("fit", "--model", f"lightning_modules.{cls.__name__}", *EXAMPLES[cls].words),
        *("--trainer.max_steps", "1", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"),
    )
    assert ran.cli is not None, ran.err
    [path] = tmp_path.rglob("*.ckpt")
    assert_names_no_file(path)


def test_a_class_of_a_user_is_named_by_its_module(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    from tests.lightning_modules.system.test_system import Sum

    trainer = make_trainer()
    trainer.strategy.connect(Sum(start=2.0))
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    saved = torch.load(tmp_path / "it.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["_class_path"] == "tests.lightning_modules.system.test_system.Sum"
