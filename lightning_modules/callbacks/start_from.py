"""Start of a training from the weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from lightning_modules.system.system import System, read_checkpoint

# Arguments that define the meaning of a network's input and output ids.
_ID_MEANINGS = ("source_tokenizer", "target_tokenizer", "class_names")


class StartFrom(Callback):
    """Starts training from the weights of a checkpoint, and from nothing else of it.

    Objective, optimiser, learning rate and schedule are those of the new run, whose epochs count from 0, whereas
    ``--ckpt_path`` resumes the old run. A resumed run keeps its own weights, which are loaded later.

    Args:
        checkpoint: checkpoint file (.ckpt).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of a system; or, when training starts, its network, tokenizers or
            classes differ from those of the run.

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
        for name in _ID_MEANINGS:
            if saved["hyper_parameters"].get(name) != pl_module.hparams.get(name):
                raise ValueError(
                    f"checkpoint={str(self.checkpoint)!r} was trained with another {name} than this run has, so its "
                    "token or class ids mean something else; train on the same data"
                )
        try:
            pl_module.load_state_dict(saved["state_dict"])
        except RuntimeError as error:
            raise ValueError(
                f"checkpoint={str(self.checkpoint)!r} holds a network that differs from this run's: {error}"
            ) from error
