"""Marks that several test files give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet


def slow_except(fast: str, cases: Mapping[str, object]) -> list[ParameterSet]:
    """Parameters of a test of which one case is enough for daily work.

    Args:
        fast: name of that case; all others are marked slow.
        cases: by the name to show.
    """
    assert fast in cases, f"there is no case {fast!r}; choose from {', '.join(cases)}"
    return [pytest.param(case, id=name, marks=() if name == fast else pytest.mark.slow) for name, case in cases.items()]
