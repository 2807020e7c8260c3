from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from attention_blocks import inserted
from benchmarks import fine_tuning
from benchmarks.fine_tuning import BLOCKS, system
from datamodules import ImageFolderDataModule


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Not trained, but as timm's file has them."""
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "lite0.safetensors")
    return tmp_path / "lite0.safetensors"


@pytest.mark.slow
def test_missing_runs_are_trained_and_the_table_is_printed(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"none": {"1": {"accuracy": 50.0, "minutes": 1.0}}}
    (tmp_path / "out.json").write_text(json.dumps(known))
    words = [str(photos), str(weights), "--epochs", "1", "--seeds", "1", "--image-size", "32"]
    words += ["--blocks", "none", "CBAM", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["fine_tuning", *words])
    fine_tuning.main()
    done = json.loads((tmp_path / "out.json").read_text())
    assert done["none"] == known["none"]
    accuracy = done["CBAM"]["1"]["accuracy"]
    lines = capsys.readouterr().out.splitlines()
    assert "| none | 50.00 |  |" in lines
    assert f"| CBAM | {accuracy:.2f} | {accuracy - 50:.2f} |" in lines


def test_inserted_blocks_change_nothing_before_training(photos: Path, weights: Path) -> None:
    data = ImageFolderDataModule(photos, 64)
    plain = system("none", data, weights).network.eval()
    image = torch.randn(1, 3, 64, 64)
    for name in BLOCKS:
        network = system(name, data, weights).network.eval()
        assert bool(inserted(network)) == (name != "none")
        network.get_submodule("head").load_state_dict(plain.get_submodule("head").state_dict())  # drawn at random
        torch.testing.assert_close(network(image), plain(image))
