"""Gradients of what every step of a loop has in common, made behind the loop and not anew at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from attention_blocks.kernels.autocast import autocast_dtype
from attention_blocks.kernels.eager import is_watched


class Tape(Protocol):
    """What the steps of a backward pass leave about the operand that they share."""

    def take(self) -> Tensor | None:
        """The operand's gradient; ``None`` if this pass left nothing."""
        ...


class ProductTape:
    """Of an operand that steps multiply by: their left operands, and the gradients of their products."""

    def __init__(self) -> None:
        self._pass = -1
        self._notes: list[tuple[Tensor, Tensor]] = []

    def note(self, left: Tensor, upstream: Tensor) -> None:
        """Leaves one step's part.

        Args:
            left: (…, rows, D).
            upstream: (…, rows, R).
        """
        current = torch._C._current_graph_task_id()
        if current != self._pass:  # what a pass left that never came to the end belongs to nobody
            self._pass, self._notes = current, []
        self._notes.append((left, upstream))

    def take(self) -> Tensor | None:
        """(…, D, R), in one product."""
        notes = self._notes if self._pass == torch._C._current_graph_task_id() else []
        self._notes = []
        if not notes:
            return None
        left, upstream = (torch.cat(parts, dim=-2) for parts in zip(*notes, strict=True))
        return left.transpose(-2, -1) @ upstream


class SumTape:
    """Of an operand that steps use otherwise: the sum so far, to be added to in place."""

    def __init__(self) -> None:
        self._pass = -1
        self._sum: Tensor | None = None

    def sum(self, like: Tensor) -> Tensor:
        """The sum, zeros at first; of the operand's shape, in float32 at least.

        Args:
            like: the operand.
        """
        current = torch._C._current_graph_task_id()
        if current != self._pass or self._sum is None:
            self._pass = current
            self._sum = torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
        return self._sum

    def take(self) -> Tensor | None:
        """The sum."""
        total = self._sum if self._pass == torch._C._current_graph_task_id() else None
        self._sum = None
        return total


class _Shared(Function):
    """What comes before all steps, and so whose gradient comes behind them."""

    @staticmethod
    def forward(ctx: Any, operand: Tensor, dtype: torch.dtype, transposed: bool, tape: Tape) -> Tensor:  # noqa: ANN401
        ctx.tape, ctx.transposed, ctx.dtype = tape, transposed, operand.dtype
        ctx.set_materialize_grads(False)
        shared = operand.detach().to(dtype)
        return shared.t() if transposed else shared

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> tuple[Tensor | None, None, None, None]:  # noqa: ANN401
        # What was left on the tape, and what steps gave that were asked for gradients of gradients.
        parts = [part for part in (ctx.tape.take(), upstream) if part is not None]
        if not parts:
            return None, None, None, None
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return (total.t() if ctx.transposed else total).to(ctx.dtype), None, None, None


class _Product(Function):
    """One step of many that multiply by the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, right: Tensor, bias: Tensor | None, tape: ProductTape) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, right)
        ctx.tape = tape
        return x @ right if bias is None else torch.addmm(bias, x, right)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:  # noqa: ANN401
        x, right = ctx.saved_tensors
        of_x = upstream @ right.transpose(-2, -1) if ctx.needs_input_grad[0] else None
        of_bias = upstream.sum(dim=0) if ctx.needs_input_grad[2] else None
        if torch.is_grad_enabled():  # somebody wants gradients of these
            return of_x, x.transpose(-2, -1) @ upstream, of_bias, None
        ctx.tape.note(x, upstream)
        return of_x, None, of_bias, None


AnyTape = TypeVar("AnyTape", ProductTape, SumTape)

# By identity, kind, layout and dtype of an operand: it itself, so that no other one can take its identity, what the
# steps see of it, and its tape.
_LOOP: ContextVar[dict[object, tuple[Tensor, Tensor, Any]] | None] = ContextVar("unrolled loop", default=None)


@contextmanager
def unrolled() -> Iterator[None]:
    """Within it, weights and memories that steps have in common get their gradients from all steps at once.

    A recurrent decoder multiplies by the same weights at every step. Autograd makes a gradient of a weight's size for
    each of them and adds them up; here the steps leave their rows and their gradients, and one product behind the last
    one makes the sum. :class:`Linear` maps and :class:`AdditiveAttention` take part, on CPUs, where gradients are
    wanted and in this thread; elsewhere nothing changes.

    Example:
        >>> from attention_blocks.kernels import Linear
        >>> layer, x = Linear(3, 3), torch.randn(2, 3)
        >>> def loop():
        ...     state = x
        ...     for _ in range(4):
        ...         state = torch.tanh(layer(state))
        ...     return torch.autograd.grad(state.sum(), layer.weight)[0]
        >>> with unrolled():
        ...     found = loop()
        >>> torch.allclose(found, loop(), atol=1e-6)
        True
    """
    token = _LOOP.set({})
    try:
        yield
    finally:
        _LOOP.reset(token)


def is_shared(operand: Tensor, x: Tensor) -> bool:
    """Whether this is the inside of :func:`unrolled`, and a step with these tensors can take part.

    Args:
        operand: what steps have in common.
        x: what is a step's own.
    """
    return (
        not torch.compiler.is_compiling()  # first, since older compilers know no ContextVar
        and _LOOP.get() is not None
        and torch.is_grad_enabled()
        and operand.requires_grad
        and x.device.type == operand.device.type == "cpu"
        and (x.dtype == operand.dtype or autocast_dtype("cpu") is not None)
        and not is_watched(x)
        and not is_watched(operand)
    )


def shared_sum(operand: Tensor) -> tuple[Tensor, SumTape]:
    """What a step sees of an operand, in float32 at least, and the tape on which it adds to its gradient.

    Args:
        operand: what the steps have in common; see :func:`is_shared`.
    """
    return _on_tape(operand, torch.promote_types(operand.dtype, torch.float32), SumTape)


def shared_product(x: Tensor, right: Tensor, bias: Tensor | None = None, *, transposed: bool = False) -> Tensor:
    """``x @ right + bias`` of one step; see :func:`is_shared`.

    Args:
        x: (rows, D), or (…, rows, D) with the axes in front that ``right`` has.
        right: what the steps have in common, (D, R) or (…, D, R).
        bias: (R,), where ``right`` has two axes.
        transposed: ``right`` is (R, D), as a linear map has it.
    """
    dtype = autocast_dtype("cpu") or right.dtype
    shared, tape = _on_tape(right, dtype, ProductTape, transposed=transposed)
    result: Tensor = _Product.apply(x.to(dtype), shared, None if bias is None else bias.to(dtype), tape)
    return result


def product(x: Tensor, right: Tensor) -> Tensor:
    """``x @ right``, whether or not steps share it.

    Args:
        x: (…, rows, D).
        right: (…, D, R).
    """
    return shared_product(x, right) if is_shared(right, x) else x @ right


def _on_tape(
    operand: Tensor, dtype: torch.dtype, kind: Callable[[], AnyTape], *, transposed: bool = False
) -> tuple[Tensor, AnyTape]:
    loop = _LOOP.get()
    if loop is None:
        raise RuntimeError("nothing is shared outside of unrolled(); ask is_shared first")
    key = (id(operand), kind, transposed, dtype)
    if key not in loop:
        tape = kind()
        loop[key] = operand, _Shared.apply(operand, dtype, transposed, tape), tape
    _, shared, tape = loop[key]
    return shared, tape
