"""Averages of the weights of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from lightning_modules import ViTClassifier, average_checkpoints

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import RunCommand


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoints(tiny_digits: list[str], run_command: RunCommand) -> list[Path]:
    """Of two epochs, each kept."""
    ran = run_command(
        "fit",
        "--config",
        "vit_digits",
        *tiny_digits,
        *("--trainer.max_epochs", "2", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k", "-1"),
        *("--trainer.callbacks.filename", "kept-{epoch}", "--trainer.callbacks.mode", "max"),
    )
    assert ran.cli is not None, ran.err
    return sorted(Path("runs").rglob("kept-*.ckpt"))


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_the_mean_of_the_weights_loads_as_any_checkpoint(checkpoints: list[Path], run_command: RunCommand) -> None:
    ran = run_command("average", "mean.ckpt", *map(str, checkpoints))
    assert ran.code is None, ran.err
    assert "mean.ckpt" in ran.out
    first, last = (weights(path) for path in checkpoints)
    system = ViTClassifier.load_from_checkpoint("mean.ckpt", weights_only=True)
    moved = 0
    for name, found in system.state_dict().items():
        if found.is_floating_point():
            torch.testing.assert_close(found, (first[name].double() + last[name].double()).div(2).float())
            moved += not torch.equal(first[name], last[name])
        else:
            assert torch.equal(found, last[name])
    assert moved > 10
    assert "optimizer_states" not in torch.load("mean.ckpt", weights_only=True)


def test_one_is_its_own_mean(checkpoints: list[Path]) -> None:
    state = average_checkpoints(checkpoints[:1])["state_dict"]
    for name, wanted in weights(checkpoints[0]).items():
        assert torch.equal(state[name], wanted)


def test_another_network_is_refused(checkpoints: list[Path], run_command: RunCommand) -> None:
    other = torch.load(checkpoints[1], weights_only=True)
    other["state_dict"]["network.head.bias"] = torch.zeros(3)
    torch.save(other, "other.ckpt")
    ran = run_command("average", "mean.ckpt", str(checkpoints[0]), "other.ckpt")
    assert ran.code == 2
    assert "other.ckpt" in ran.err
    assert "network.head.bias" in ran.err
    assert not Path("mean.ckpt").exists()


def test_an_existing_file_is_not_overwritten(checkpoints: list[Path], run_command: RunCommand) -> None:
    before = checkpoints[0].read_bytes()
    ran = run_command("average", str(checkpoints[0]), str(checkpoints[1]))
    assert ran.code == 2
    assert str(checkpoints[0]) in ran.err
    assert checkpoints[0].read_bytes() == before


def test_no_files_to_average() -> None:
    with pytest.raises(ValueError, match="paths"):
        average_checkpoints([])


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        average_checkpoints(["nowhere.ckpt"])
