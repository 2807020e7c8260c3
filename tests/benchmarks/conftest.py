"""Fixtures of the tests of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes, to be trained and tested on."""
    for split, number in (("train", 33), ("test", 3)):
        for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (20, 20), colour).save(tmp_path / "photos" / split / name / f"{index}.png")
    return tmp_path / "photos"
