from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_classes() -> Callable[..., Path]:
    """Writes one folder per class, with images of its colour, with noise and in different sizes."""

    def write(root: Path, count: int = 10, classes: tuple[str, ...] = tuple(COLOURS), suffix: str = "png") -> Path:
        noise = np.random.default_rng(0)
        for name in classes:
            (root / name).mkdir(parents=True)
            for number in range(count):
                values = np.full((20 + number % 3, 24, 3), COLOURS[name]) // 2 + noise.integers(0, 100, (1, 1, 3))
                Image.fromarray(values.astype(np.uint8)).save(root / name / f"{number:03}.{suffix}")
        return root

    return write
