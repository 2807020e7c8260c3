"""Gradients of operands shared by all steps of a loop, computed once after the loop instead of at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from attention_blocks.kernels.autocast import autocast_dtype
from attention_blocks.kernels.eager import is_transformed


class Tape(Protocol):
    """Contributions of the steps of a backward pass to the gradient of a shared operand."""

    def take(self) -> Tensor | None:
        """Returns the gradient of the operand and clears the tape; ``None`` if this pass recorded nothing."""
        ...


class ProductTape:
    """Tape of an operand that steps multiply by: their left operands and the gradients of their products."""

    def __init__(self) -> None:
        self._pass = -1
        self._records: list[tuple[Tensor, Tensor]] = []

    def record(self, left: Tensor, grad: Tensor) -> None:
        """Records the contribution of one step.

        Args:
            left: (…, rows, D).
            grad: (…, rows, R).
        """
        current = torch._C._current_graph_task_id()
        if current != self._pass:  # discard what an aborted pass recorded
            self._pass, self._records = current, []
        self._records.append((left, grad))

    def take(self) -> Tensor | None:
        """See :meth:`Tape.take`; (…, D, R), in one product."""
        records = self._records if self._pass == torch._C._current_graph_task_id() else []
        self._records = []
        if not records:
            return None
        left, grad = (torch.cat(parts, dim=-2) for parts in zip(*records, strict=True))
        return left.transpose(-2, -1) @ grad


class SumTape:
    """Tape of an operand that steps use in another way: a sum to which they add in place."""

    def __init__(self) -> None:
        self._pass = -1
        self._sum: Tensor | None = None

    def sum(self, like: Tensor) -> Tensor:
        """Returns the sum so far, initially zeros.

        Args:
            like: the operand.

        Returns:
            A tensor of the operand's shape, in float32 or wider.
        """
        current = torch._C._current_graph_task_id()
        if current != self._pass or self._sum is None:
            self._pass = current
            self._sum = torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
        return self._sum

    def take(self) -> Tensor | None:
        """See :meth:`Tape.take`."""
        total = self._sum if self._pass == torch._C._current_graph_task_id() else None
        self._sum = None
        return total


class _Shared(Function):
    """Identity before all steps, whose backward pass therefore runs after those of all steps."""

    @staticmethod
    def forward(ctx: Any, operand: Tensor, dtype: torch.dtype, transposed: bool, tape: Tape) -> Tensor:  # noqa: ANN401
        ctx.tape, ctx.transposed, ctx.dtype = tape, transposed, operand.dtype
        ctx.set_materialize_grads(False)
        shared = operand.detach().to(dtype)
        return shared.t() if transposed else shared

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:  # noqa: ANN401
        # The recorded gradient, and the ordinary one of steps with gradients of gradients.
        parts = [part for part in (ctx.tape.take(), grad) if part is not None]
        if not parts:
            return None, None, None, None
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return (total.t() if ctx.transposed else total).to(ctx.dtype), None, None, None


class _Product(Function):
    """Product of one step with a shared operand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, right: Tensor, bias: Tensor | None, tape: ProductTape) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, right)
        ctx.tape = tape
        return x @ right if bias is None else torch.addmm(bias, x, right)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:  # noqa: ANN401
        x, right = ctx.saved_tensors
        grad_x = grad @ right.transpose(-2, -1) if ctx.needs_input_grad[0] else None
        grad_bias = grad.sum(dim=0) if ctx.needs_input_grad[2] else None
        if torch.is_grad_enabled():  # for gradients of gradients
            return grad_x, x.transpose(-2, -1) @ grad, grad_bias, None
        ctx.tape.record(x, grad)
        return grad_x, None, grad_bias, None


AnyTape = TypeVar("AnyTape", ProductTape, SumTape)

# By id, kind of tape, layout and dtype of an operand: the operand itself, which keeps the id from being reused, the
# tensor that the steps use, and the tape.
_LOOP: ContextVar[dict[object, tuple[Tensor, Tensor, Any]] | None] = ContextVar("unrolled loop", default=None)


@contextmanager
def unrolled() -> Iterator[None]:
    """Context in which weights and memories shared by the steps of a loop get their gradients from all steps at once.

    A recurrent decoder multiplies by the same weights at every step. Autograd computes a gradient of the weights at
    each step and adds them up; here the steps record their inputs and gradients, and one product after the last step
    computes the sum. This applies to :class:`Linear` layers and :class:`AdditiveAttention` on CPUs, with gradients and
    in this thread; elsewhere nothing changes.

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
    """Whether a step is inside :func:`unrolled` and supported by it.

    Args:
        operand: operand shared by all steps.
        x: operand of this step.
    """
    return (
        not torch.compiler.is_compiling()  # first, since older compilers do not support ContextVar
        and _LOOP.get() is not None
        and torch.is_grad_enabled()
        and operand.requires_grad
        and x.device.type == operand.device.type == "cpu"
        and (x.dtype == operand.dtype or autocast_dtype("cpu") is not None)
        and not is_transformed(x)
        and not is_transformed(operand)
    )


def shared_sum(operand: Tensor) -> tuple[Tensor, SumTape]:
    """Operand for a step, and the tape that accumulates its gradient.

    Args:
        operand: operand shared by all steps; see :func:`is_shared`.

    Returns:
        The operand in float32 or wider, and the tape.
    """
    return _on_tape(operand, torch.promote_types(operand.dtype, torch.float32), SumTape)


def shared_product(x: Tensor, right: Tensor, bias: Tensor | None = None, *, transposed: bool = False) -> Tensor:
    """``x @ right + bias`` of one step; see :func:`is_shared`.

    Args:
        x: (rows, D), or (…, rows, D) with the leading dimensions of ``right``.
        right: operand shared by all steps, (D, R) or (…, D, R).
        bias: (R,), if ``right`` has two dimensions.
        transposed: ``right`` is (R, D), as in a linear layer.

    Returns:
        (…, rows, R).
    """
    dtype = autocast_dtype("cpu") or right.dtype
    shared, tape = _on_tape(right, dtype, ProductTape, transposed=transposed)
    result: Tensor = _Product.apply(x.to(dtype), shared, None if bias is None else bias.to(dtype), tape)
    return result


def product(x: Tensor, right: Tensor) -> Tensor:
    """``x @ right``, recorded if ``right`` is shared by the steps of a loop.

    Args:
        x: (…, rows, D).
        right: (…, D, R).

    Returns:
        (…, rows, R).
    """
    return shared_product(x, right) if is_shared(right, x) else x @ right


def _on_tape(
    operand: Tensor, dtype: torch.dtype, kind: Callable[[], AnyTape], *, transposed: bool = False
) -> tuple[Tensor, AnyTape]:
    loop = _LOOP.get()
    if loop is None:
        raise RuntimeError("operands are shared inside unrolled() only; check is_shared first")
    key = (id(operand), kind, transposed, dtype)
    if key not in loop:
        tape = kind()
        loop[key] = operand, _Shared.apply(operand, dtype, transposed, tape), tape
    _, shared, tape = loop[key]
    return shared, tape
