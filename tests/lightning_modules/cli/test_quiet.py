from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest

from lightning_modules.cli.quiet import quieten

LOGGER = "lightning.pytorch.utilities.rank_zero"


@pytest.fixture(autouse=True)
def _filters_are_restored() -> Iterator[None]:
    logger = logging.getLogger(LOGGER)
    before = list(logger.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
    logger.filters[:] = before


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger](...)", False),
        ("GPU available: False, used: False", False),
        ("GPU available: True (cuda), used: False", True),
        ("Loading `train_dataloader` to estimate number of stepping batches.", False),
        ("`Trainer.fit` stopped: `max_epochs=2` reached.", False),
        ("The checkpoint's own dim counts", True),
    ],
)
def test_notes_that_nobody_can_act_on_are_not_shown(
    message: str, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    quieten()
    quieten()  # the filter is installed once
    with caplog.at_level(logging.INFO, logger=LOGGER):
        logging.getLogger(LOGGER).info(message)
    assert (message in caplog.messages) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("The 'train_dataloader' does not have many workers which may be a bottleneck. Consider", False),
        ("The number of training batches (2) is smaller than the logging interval", True),
    ],
)
def test_warnings_that_are_not_the_users_fault_are_not_shown(message: str, shown: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quieten()
        warnings.warn(message, UserWarning, stacklevel=1)
    assert bool(caught) == shown
