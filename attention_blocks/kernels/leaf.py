"""Functions that FX records as one node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from torch.fx import Proxy

P = ParamSpec("P")
R = TypeVar("R")


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Makes ``torch.fx`` record each call of a function as one node, as it does for the functions of torch.

    For functions that look at sizes and dtypes, which symbolic tracing does not know.

    Args:
        function: any function of tensors.

    Example:
        >>> import torch
        >>> @leaf
        ... def halved(x):
        ...     return x / 2 if len(x) > 1 else x
        >>> class Halved(torch.nn.Module):
        ...     def forward(self, x):
        ...         return halved(x)
        >>> torch.fx.symbolic_trace(Halved())(torch.ones(2))
        tensor([0.5000, 0.5000])
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        proxy = _first_proxy((*args, *kwargs.values()))
        if proxy is None:
            return function(*args, **kwargs)
        return cast(R, proxy.tracer.create_proxy("call_function", call, args, dict(kwargs)))

    return call


def _first_proxy(values: Iterable[object]) -> Proxy | None:
    for value in values:
        if isinstance(value, Proxy):
            return value
        if isinstance(value, tuple) and (found := _first_proxy(value)) is not None:
            return found
    return None
