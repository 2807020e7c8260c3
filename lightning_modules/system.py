"""What every system shares: plain checkpoints that load alone, the optimiser, and the schedule."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from typing_extensions import Self

from lightning_modules.parameter_groups import parameter_groups
from lightning_modules.plain import import_path, to_plain
from lightning_modules.schedules import LengthAwareSchedule

# Lightning's own rebuilder of modules from plain arguments; the name is what its checkpoints carry.
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"

# The plain arguments of the system that is being loaded: its constructor gets what was built from them.
_loading: ContextVar[dict[str, Any] | None] = ContextVar("_loading", default=None)


def adamw(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser of a system that is given none.

    A function, since jsonargparse would mix what a default lambda says into whatever replaces it.
    """
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)


class System(LightningModule):
    """Base of every system here: a network, its loss and metrics, its optimiser, and a checkpoint that is whole.

    A subclass calls :meth:`save_hyperparameters` in its constructor. What it was built with then goes into the
    checkpoint as plain data, whether the run came from Python or from the command line, and
    ``System.load_from_checkpoint(path)`` builds the very class that was saved, with no other argument.

    Args:
        optimizer: makes the optimiser from the parameters.
        lr_scheduler: makes the schedule, stepped once a batch, from the optimiser; none when left out.
        layer_decay: each layer, from the head down, learns at this share of the rate of the layer above it; 1 is off.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0.0 < layer_decay <= 1.0:
            raise ValueError(f"layer_decay must lie in (0, 1], got {layer_decay}; 1 gives every layer the same rate")
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._layer_decay = layer_decay

    def layers(self) -> Sequence[nn.Module]:
        """The modules that layer-wise decay counts as layers, from the input up; what is in none is the head's."""
        return []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser over the groups of :func:`parameter_groups`, and the schedule, stepped once a batch."""
        groups = parameter_groups(self, self.layers() if self._layer_decay < 1.0 else [], self._layer_decay)
        optimizer = self._optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * group["lr_scale"]
        if self._lr_scheduler is None:
            return optimizer
        scheduler = self._lr_scheduler(optimizer)
        if isinstance(scheduler, LengthAwareSchedule):
            scheduler.set_total_steps(int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def save_hyperparameters(self, *args: Any, frame: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Keeps the constructor's arguments, as Lightning's method does, and as plain data.

        Raises:
            ValueError: an argument has no plain description.
        """
        plain = _loading.get()
        if plain is None:
            current = inspect.currentframe()
            super().save_hyperparameters(*args, frame=frame or (current and current.f_back), **kwargs)
            defaults = inspect.signature(type(self).__init__).parameters
            plain = {
                name: to_plain(value, name)
                for name, value in self.hparams.items()
                if not name.startswith("_") and (name not in defaults or value is not defaults[name].default)
            }
            self.hparams.clear()
        super().save_hyperparameters({**plain, "_class_path": import_path(type(self)), "_instantiator": _INSTANTIATOR})

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,  # noqa: ANN401
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> Self:
        """Builds the system that was saved, weights and all.

        Args:
            checkpoint_path: the file.
            map_location: where to put the weights; where they were when left out.
            hparams_file: as in Lightning; never needed here.
            strict: whether names must match exactly.
            weights_only: read nothing but tensors and plain data, the safe default.
            **kwargs: constructor arguments that replace the saved ones.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated or no checkpoint, or holds a system of another class.
        """
        saved = _read(checkpoint_path, weights_only)
        arguments = dict(saved.get("hyper_parameters", {}))
        saved_class = _find_class(cls, arguments.get("_class_path"), checkpoint_path)
        replaced = {name: to_plain(value, name) for name, value in kwargs.items()}
        token = _loading.set({**arguments, **replaced})
        try:
            load = super(System, saved_class).load_from_checkpoint
            return cast(Self, load(checkpoint_path, map_location, hparams_file, strict, weights_only, **replaced))
        finally:
            _loading.reset(token)


def _read(path: str | Path | IO[bytes], weights_only: bool | None) -> dict[str, Any]:
    if isinstance(path, (str, Path)) and not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint_path: there is no file {str(path)!r}")
    try:
        saved = torch.load(path, map_location="meta", weights_only=weights_only)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"checkpoint_path: {str(path)!r} cannot be read as a checkpoint; it is truncated, or no checkpoint at all "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    finally:
        if not isinstance(path, (str, Path)):
            path.seek(0)
    if not isinstance(saved, dict) or "state_dict" not in saved:
        raise ValueError(f"checkpoint_path: {str(path)!r} holds no Lightning checkpoint (it has no 'state_dict')")
    return saved


def _subclasses(cls: type[System]) -> Iterable[type[System]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _subclasses(below)


def _find_class(cls: type[System], class_path: str | None, path: object) -> type[System]:
    """The class that a checkpoint names, among the imported ones that ``cls`` covers."""
    if class_path is None:
        return cls
    for candidate in _subclasses(System):
        if import_path(candidate) == class_path:
            if issubclass(candidate, cls):
                return candidate
            raise ValueError(
                f"checkpoint_path: {str(path)!r} holds a {candidate.__name__}, not a {cls.__name__}; "
                f"load it with {candidate.__name__}.load_from_checkpoint"
            )
    raise ValueError(
        f"checkpoint_path: {str(path)!r} holds a {class_path}, which is not imported; import its module first"
    )
