"""Lightning's parser with short errors, and errors of constructors and of the Trainer in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from lightning_modules.cli.errors import USER_ERRORS, refuse
from lightning_modules.cli.parsing import ShortErrors


class TrainingParser(ShortErrors, LightningArgumentParser):
    """Lightning's parser, whose errors are short, and through which the errors of constructors pass unchanged."""

    required_hint = "; give --config RECIPE (attention-blocks recipes lists them)"

    def add_instantiator(
        self,
        instantiator: Callable[..., Any],
        class_type: type,
        subclasses: bool = True,
        prepend: bool = False,
    ) -> None:
        """Adds an instantiator whose errors jsonargparse cannot catch and rephrase; see :func:`constructor_errors`."""
        super().add_instantiator(_carrying(instantiator), class_type, subclasses=subclasses, prepend=prepend)


class _ConstructorError(BaseException):
    """Carries an error of a constructor through jsonargparse, which rephrases every ``Exception``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _carrying(instantiator: Callable[..., Any]) -> Callable[..., Any]:
    depth = 0

    @functools.wraps(instantiator)
    def instantiate(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        nonlocal depth
        depth += 1
        try:
            return instantiator(*args, **kwargs)
        except Exception as error:
            if depth > 1:  # called by a constructor, which may handle the error
                raise
            raise _ConstructorError(error) from error
        finally:
            depth -= 1

    return instantiate


@contextmanager
def constructor_errors() -> Iterator[None]:
    """Lets errors of constructors leave jsonargparse as they were raised: in one line, if they are the user's."""
    try:
        yield
    except _ConstructorError as carrier:
        if isinstance(carrier.error, USER_ERRORS):
            refuse(carrier.error)
        raise carrier.error from None
    except (MisconfigurationException, *USER_ERRORS) as error:
        refuse(_one_line(error))


@contextmanager
def trainer_errors() -> Iterator[None]:
    """Ends the program in one line where Lightning refuses the user's settings during a run."""
    try:
        yield
    except MisconfigurationException as error:
        refuse(_one_line(error))
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        refuse(_one_line(error))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
