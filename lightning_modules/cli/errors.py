"""Errors in the user's input as one line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Raised by this library for bad input; everything else is a bug and keeps its traceback.
USER_ERRORS = (ValueError, FileNotFoundError)


def refuse(error: Exception | str) -> NoReturn:
    """Prints an error in one line, without a traceback, and exits with status 2, as argparse does."""
    print(f"attention-blocks: error: {error}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns :data:`USER_ERRORS` raised in the block into :func:`refuse`."""
    try:
        yield
    except USER_ERRORS as error:
        refuse(error)
