"""What the tests of the blocks share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_draws() -> Iterator[None]:
    """Every test draws the same numbers, alone or in company, and leaves the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
