"""Fixtures of the tests of the command line."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import Ran


@pytest.fixture(autouse=True, scope="module")
def _no_copies_of_classes() -> Iterator[None]:
    """Collects the copies of classes that torch.export leaves, which make bare names in recipes ambiguous."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attention-blocks"])  # Lightning warns when it finds pytest's words there


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An image file."""
    path = tmp_path / "digit.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def refused() -> Callable[..., None]:
    """Asserts that a command ended with status 2, one line of error that holds the words, and perhaps one of help."""

    def check(ran: Ran, *words: str) -> None:
        assert ran.code == 2
        assert ran.out == ""
        errors = [line for line in ran.err.splitlines() if not line.startswith("Seed set to ")]
        assert errors[0].startswith("attention-blocks: error: ")
        assert len(errors) == 1 or (len(errors) == 2 and errors[1].startswith("Help: attention-blocks "))
        for word in words:
            assert word in errors[0]

    return check
