"""The base of every system: self-contained checkpoints, the optimiser and its schedule."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, cast

import torch
from jsonargparse import ArgumentParser
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from lightning_modules.backbones.pretrained import weights_to_come
from lightning_modules.system.parameter_groups import parameter_groups
from lightning_modules.system.plain import import_object, import_path, to_plain
from lightning_modules.system.schedules import LengthAwareSchedule

# Lightning's function that rebuilds modules from plain arguments, by the name that its checkpoints carry (tried: 2.6).
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


# Plain arguments of the system that is being loaded; its constructor receives the objects built from them.
_loading: ContextVar[dict[str, Any] | None] = ContextVar("_loading", default=None)


def adamw(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The default optimiser: AdamW with a learning rate of 1e-3 and a weight decay of 0.05.

    A function, since jsonargparse would mix the arguments of a default class into whatever class replaces it.
    """
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)


class System(LightningModule):
    """Base of every system: a network with its loss, metrics and optimiser, and self-contained checkpoints.

    The constructor's arguments go into the checkpoint as plain data, whether the run came from Python or from the
    command line, and ``System.load_from_checkpoint(path)`` builds the class that was saved, with no other argument.
    All that a subclass has to do is to call ``super().__init__``, passing on the arguments below.

    Args:
        optimizer: creates the optimiser from the parameters.
        lr: learning rate; defaults to the optimiser's own. Lightning's ``LearningRateFinder`` sets it.
        lr_scheduler: creates the schedule, stepped after every batch, from the optimiser; defaults to none.
        layer_decay: factor of the learning rate from each of :meth:`layers` to the one below it; 1 is off.

    Raises:
        ValueError: ``lr`` is not positive or ``layer_decay`` outside (0, 1]; or an argument, a subclass's own
            included, cannot be described as plain data or has no annotation to rebuild it by.
    """

    network: nn.Module

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable = adamw,
        lr: float | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if lr is not None and not lr > 0.0:
            raise ValueError(f"lr must be positive, got {lr}; leave it out for the optimiser's own")
        if not 0.0 < layer_decay <= 1.0:
            raise ValueError(f"layer_decay must lie in (0, 1], got {layer_decay}; 1 gives every layer the same rate")
        self.lr = self._configured_lr = lr
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._layer_decay = layer_decay

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copies everything but the factories of optimiser and schedule, which both share.

        The command line's factories are bound to its parser, trainer and data, which must not be copied, and with
        several processes cannot be.
        """
        for factory in (self._optimizer, self._lr_scheduler):
            memo[id(factory)] = factory
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]
        return copied

    def layers(self) -> Sequence[nn.Module]:
        """The layers for ``layer_decay``, from the input up; parameters in none of them belong to the head."""
        return []

    def prediction_records(self, batch: Any, predictions: Any) -> list[dict[str, object]]:  # noqa: ANN401
        """Records of a batch's predictions for a file, one per row; the first value of each is the prediction itself.

        Args:
            batch: as the data gives it.
            predictions: as ``predict_step`` returns them, one per row.
        """
        return [{"prediction": one.tolist() if isinstance(one, Tensor) else one} for one in predictions]

    def export_inputs(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, str], ...]]:
        """Example inputs of the forward pass for tracing, and for each input the names of its dynamic axes.

        Raises:
            ValueError: the system does not define it.
        """
        raise ValueError(f"{type(self).__name__} does not define export_inputs(), so it cannot be traced")

    def on_fit_start(self) -> None:
        """Creates optimiser and schedule again if ``LearningRateFinder`` has changed ``lr`` since."""
        if self.lr != self._configured_lr:
            self.trainer.strategy.setup_optimizers(self.trainer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser over the groups of :func:`parameter_groups`, and the schedule, stepped after every batch."""
        self._configured_lr = self.lr
        groups = parameter_groups(self, self.layers() if self._layer_decay < 1.0 else [], self._layer_decay)
        optimizer = self._optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] = (group["lr"] if self.lr is None else self.lr) * group["lr_scale"]
        if self._lr_scheduler is None:
            return optimizer
        scheduler = self._lr_scheduler(optimizer)
        if isinstance(scheduler, LengthAwareSchedule):
            scheduler.set_total_steps(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def save_hyperparameters(self, *args: Any, frame: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Stores the constructor's arguments in ``hparams``, as plain data.

        Raises:
            ValueError: an argument has no plain description, or no annotation to rebuild it by.
        """
        plain = _loading.get()
        if plain is None:
            current = inspect.currentframe()
            super().save_hyperparameters(*args, frame=frame or (current and current.f_back), **kwargs)
            plain = _describe(type(self), self.hparams)
            self.hparams.clear()
        path = import_path(type(self))
        named = {"_class_path": path} if path else {}  # a class defined inside a function has none; only it can load it
        super().save_hyperparameters({**plain, **named, "_instantiator": _INSTANTIATOR})

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
        """Builds the system that was saved and loads its weights.

        Args:
            checkpoint_path: checkpoint file (.ckpt).
            map_location: device for the weights; defaults to the one that they were saved from.
            hparams_file: as in Lightning; not needed.
            strict: whether the names of the weights must match exactly.
            weights_only: read only tensors and plain data, the safe default.
            **kwargs: constructor arguments that replace the saved ones.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated or not a checkpoint, or holds a system of another class.
        """
        arguments = dict(read_checkpoint(checkpoint_path, weights_only)["hyper_parameters"])
        saved_class = _find_class(cls, arguments, checkpoint_path)
        replaced = {name: to_plain(value, name) for name, value in kwargs.items()}
        if "_class_path" in arguments:
            replaced["_class_path"] = import_path(saved_class)
        token = _loading.set({**arguments, **replaced})
        try:
            load = super(System, saved_class).load_from_checkpoint
            with weights_to_come():
                return cast(Self, load(checkpoint_path, map_location, hparams_file, strict, weights_only, **replaced))
        finally:
            _loading.reset(token)


def _parameters(cls: type[System]) -> dict[str, inspect.Parameter]:
    """The constructor's parameters, those that it passes on to its bases included."""
    merged: dict[str, inspect.Parameter] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, System) and "__init__" in vars(base):
            merged |= inspect.signature(base).parameters
    return merged


def _describe(cls: type[System], arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a constructor as plain data, without those that are its defaults."""
    # Lightning also collects the arguments of bases that a class fixes; these cannot be given again.
    accepted = ArgumentParser().add_class_arguments(cls, "system", fail_untyped=False)
    parameters = _parameters(cls)
    plain = {}
    for name, value in arguments.items():
        parameter = parameters.get(name)
        fixed = parameter is not None and f"system.{name}" not in accepted
        if name.startswith("_") or fixed or (parameter is not None and value is parameter.default):
            continue
        plain[name] = to_plain(value, name)
        built = callable(value) or dataclasses.is_dataclass(value)
        if built and parameter is not None and parameter.annotation is parameter.empty:
            raise ValueError(
                f"{name} of {cls.__name__} has no annotation, so no checkpoint could say what to build it as; annotate "
                "it as its base class does"
            )
    return plain


def read_checkpoint(path: str | Path | IO[bytes], weights_only: bool | None = True) -> dict[str, Any]:
    """Content of a System's checkpoint, with tensors on the meta device.

    Args:
        path: checkpoint file.
        weights_only: read only tensors and plain data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or not a checkpoint, or was not saved by a System.
    """
    if isinstance(path, (str, Path)) and not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint_path: there is no file {str(path)!r}")
    try:
        saved = torch.load(path, map_location="meta", weights_only=weights_only)
    except Exception as error:  # whatever broken bytes lead to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"checkpoint_path: {str(path)!r} cannot be read as a checkpoint ({reason}); it is truncated, not a "
            "checkpoint, or holds pickled objects, which weights_only=False would read if you trust it"
        ) from error
    finally:
        if not isinstance(path, (str, Path)):
            path.seek(0)
    if not isinstance(saved, dict) or "state_dict" not in saved:
        raise ValueError(f"checkpoint_path: {str(path)!r} holds no Lightning checkpoint (it has no 'state_dict')")
    if "_instantiator" not in saved.get("hyper_parameters", {}):
        raise ValueError(
            f"checkpoint_path: {str(path)!r} was saved by another kind of LightningModule, or by one that did not call "
            "System's constructor, so it does not say how to build its network; use that module's own class"
        )
    return saved


def _find_class(cls: type[System], arguments: Mapping[str, Any], path: object) -> type[System]:
    """The class that a checkpoint names, if it is ``cls`` or a subclass of it."""
    class_path = arguments.get("_class_path")
    if class_path is None:
        return cls
    # A class that a script defines is named differently where that script is imported.
    found = import_object(class_path) or import_object(class_path.replace("__main__", cls.__module__))
    if not (isinstance(found, type) and issubclass(found, System)):
        raise ValueError(
            f"checkpoint_path: {str(path)!r} holds a {class_path}, which cannot be imported; put its module where "
            "Python finds it"
        )
    if not issubclass(found, cls):
        raise ValueError(
            f"checkpoint_path: {str(path)!r} holds a {found.__name__}, not a {cls.__name__}; "
            f"load it with {found.__name__}.load_from_checkpoint"
        )
    return found
