from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from attention_blocks import SelectiveKernel
from benchmarks import attention_accuracy
from benchmarks.attention_accuracy import BLOCKS, SelectiveResNet, interval, system
from datamodules import ImageTransform
from lightning_modules import SmallResNet


@pytest.mark.slow
def test_missing_runs_are_trained_and_the_table_is_printed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"none": {"1": {"accuracy": 50.0, "minutes": 1.0}}}
    (tmp_path / "out.json").write_text(json.dumps(known))
    words = [str(photos), "--epochs", "1", "--seeds", "1", "--image-size", "16"]
    words += ["--blocks", "none", "SimAM", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["attention_accuracy", *words])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    attention_accuracy.main()
    done = json.loads((tmp_path / "out.json").read_text())
    assert done["none"] == known["none"]
    assert 0 <= done["SimAM"]["1"]["accuracy"] <= 100
    rows = capsys.readouterr().out.splitlines()
    none, simam = (next(row for row in rows if row.startswith(f"| {name} |")) for name in ("none", "SimAM"))
    assert "| 50.00 |" in none
    assert f"| {done['SimAM']['1']['accuracy'] - 50:.2f} |" in simam
    assert none.split("|")[2] == simam.split("|")[2], "SimAM has no parameters"


def test_every_block_is_in_the_network() -> None:
    plain = sum(p.numel() for p in system("none", 10, ImageTransform(28, channels=1), 2).network.parameters())
    for name in BLOCKS:
        network = system(name, 10, ImageTransform(28, channels=1), 2).network
        assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)
        more = sum(p.numel() for p in network.parameters()) - plain
        assert more > 0 or name in ("none", "SimAM")


def test_selective_kernels_replace_convolutions() -> None:
    network = SelectiveResNet(10, (28, 28), 1, depth=2)
    found = [module for module in network.modules() if isinstance(module, SelectiveKernel)]
    assert len(found) == 6
    theirs = sum(p.numel() for p in SmallResNet(10, (28, 28), 1, depth=2).parameters())
    assert sum(p.numel() for p in network.parameters()) < 1.2 * theirs


def test_the_interval_is_students() -> None:
    """Of 1, 2, 3: 2 ± 4.303 · 1 / √3, as any table of Student's t has it."""
    assert interval([1.0, 2.0, 3.0]) == "2.00 ± 2.48"
    assert interval([1.5]) == "1.50"
