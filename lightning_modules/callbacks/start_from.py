"""A training that begins where another one ended, with another aim, rate or schedule."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from lightning_modules.system.system import System, read_checkpoint

# What the numbers of a network's inputs and outputs mean.
_MEANINGS = ("source_tokenizer", "target_tokenizer", "class_names")


class StartFrom(Callback):
    """Starts from the weights of a checkpoint, and from these alone.

    Objective, optimiser, rate and schedule are those of the new run, and its epochs count from 0; ``--ckpt_path`` goes
    on with those of the old one. A run that is itself resumed has its own weights, which are loaded later.

    Args:
        checkpoint: a file that training wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of a system; or, once training starts, its network is another one, or its
            tokenizers or classes are.

    Example:
        >>> StartFrom("likely.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: checkpoint_path: there is no file 'likely.ckpt'
    """

    def __init__(self, checkpoint: str | Path) -> None:
        read_checkpoint(checkpoint)
        self.checkpoint = Path(checkpoint)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Loads the weights."""
        if stage != "fit":
            return
        if not isinstance(pl_module, System):
            raise ValueError(f"StartFrom needs a System, got {type(pl_module).__name__}")
        saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        for name in _MEANINGS:
            if saved["hyper_parameters"].get(name) != pl_module.hparams.get(name):
                raise ValueError(
                    f"checkpoint={str(self.checkpoint)!r} was trained with another {name} than this run has, so its "
                    "numbers mean something else; train on the same data"
                )
        try:
            pl_module.load_state_dict(saved["state_dict"])
        except RuntimeError as error:
            raise ValueError(
                f"checkpoint={str(self.checkpoint)!r} holds another network than this run trains: {error}"
            ) from error
