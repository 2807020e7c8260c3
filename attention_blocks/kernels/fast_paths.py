"""The switch for all fast paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_ENABLED: ContextVar[bool] = ContextVar("fast paths", default=True)


@contextmanager
def fast_paths(enabled: bool) -> Iterator[None]:
    """Context that switches the fast paths of all blocks on or off, in this thread; they are on by default.

    Fast paths are alternatives inside functions: torch's fused attention, the scores of additive attention computed in
    parts, a pooling with its own gradient, faster dropout. Results are the same to rounding. Without them only torch's
    elementary operations are used, which all have second derivatives; torch's fused attention has none on CPUs.
    Compiled code does not read the switch.

    Args:
        enabled: whether fast paths are used.

    Example:
        A gradient penalty, which needs the gradient of a gradient:

        >>> from attention_blocks import SelfAttention
        >>> attention, x = SelfAttention(16, num_heads=2), torch.randn(2, 5, 16, requires_grad=True)
        >>> with fast_paths(False):
        ...     output = attention(x).context
        >>> [gradient] = torch.autograd.grad(output.sum(), x, create_graph=True)
        >>> gradient.square().sum().backward()
    """
    token = _ENABLED.set(enabled)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def is_traced() -> bool:
    """Whether a call is compiled, exported or traced by ``torch.jit.trace``, so that its values are not known."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call, attr-defined, unused-ignore]


def uses_fast_paths() -> bool:
    """Whether fast paths are used; always in compiled code, since older compilers do not support the switch."""
    return torch.compiler.is_compiling() or _ENABLED.get()
