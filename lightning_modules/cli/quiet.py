"""Messages of Lightning and torch that no user of the command line can act on, and which are therefore not shown.

Each is filtered by its logger or category and by its text. Tried with Lightning 2.6.6 and torch 2.14.1.
"""

from __future__ import annotations

import logging
import re
import warnings

# Logged by Lightning: advertising, and notes on what is about to happen anyway.
_NOTES = re.compile(
    r".*Tip: For seamless cloud|.*litlogger|.*lightning\.ai|"
    r"TPU available: False|HPU available: False|GPU available: False, used: False|"
    r"Loading `train_dataloader` to estimate number of stepping batches|"
    r"`Trainer\.fit` stopped: `max_(epochs|steps)=|"
    r"Restoring states from the checkpoint path|"
    r"Trainer already configured with model summary callbacks",
    re.DOTALL,
)
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer",
)

# Warnings, by category and the start of their text.
_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    # Data that is in memory, or generated, loads fastest without further processes.
    (UserWarning, r".*does not have many workers which may be a bottleneck"),
    # Averaged weights are what a checkpoint holds, and all that is needed after training.
    (UserWarning, r".*WeightAveraging callback, but loading a checkpoint outside the 'fit' stage"),
    # Every run has a folder of its own.
    (UserWarning, r".*The dirpath has changed from"),
    # Batches of text and captions say themselves which rows they hold.
    (UserWarning, r".*Couldn't infer the batch indices fetched from your dataloader"),
    # Lightning's use of torch.
    (FutureWarning, r".*isinstance\(treespec, LeafSpec\)"),
    (DeprecationWarning, r".*isinstance\(treespec, LeafSpec\)"),
    (UserWarning, r".*isinstance\(treespec, LeafSpec\)"),
    # The command gives its words to Lightning as arguments, which is intended.
    (UserWarning, r".*LightningCLI's args parameter is intended to run"),
)


def quieten() -> None:
    """Installs the filters; those of the user, such as ``python -W``, keep their effect on everything else."""
    for category, message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _worth_showing not in logger.filters:
            logger.addFilter(_worth_showing)


def _worth_showing(record: logging.LogRecord) -> bool:
    return not _NOTES.match(record.getMessage())
