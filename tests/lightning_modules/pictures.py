"""Checks of files with pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def assert_picture(path: Path) -> None:
    """The file holds an image of some size that is not a single colour."""
    with Image.open(path) as image:
        assert min(image.size) > 100
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
