"""Whether a network looks for trained weights, or a checkpoint is going to fill it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_weights_to_come: ContextVar[bool] = ContextVar("_weights_to_come", default=False)


@contextmanager
def weights_to_come() -> Iterator[None]:
    """Within it, networks are built to be filled from a checkpoint, so they need not look for trained weights."""
    token = _weights_to_come.set(True)
    try:
        yield
    finally:
        _weights_to_come.reset(token)


def are_weights_to_come() -> bool:
    """Whether a checkpoint's weights will replace whatever a network would begin with."""
    return _weights_to_come.get()
