"""Linear maps by the library, and from the layout of the weight, that a CPU runs fastest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from attention_blocks.kernels.eager import runs_as_it_stands
from attention_blocks.kernels.unrolled import is_shared, shared_product

Activation = Literal["relu", "gelu"]

# torch multiplies float32 matrices on CPUs by MKL, which has no AVX-512 for AMD's; oneDNN has. The operation is the one
# that torch.compile emits for linear maps on CPUs.
_AVAILABLE = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")

# Smaller products are over before oneDNN has begun; where the weights lie ready for it, it begins sooner.
WORTHWHILE, WORTHWHILE_PACKED = 2**24, 2**19

# By the identity of a weight: the weight itself, so that no other one can take its identity, and its packed copy.
_PACKED: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("packed weights", default=None)


@contextmanager
def packed(*modules: nn.Module) -> Iterator[None]:
    """Within it, the :class:`Linear` maps of the modules read weights that lie as the CPU's faster library wants them.

    That is oneDNN and a layout of its own, or MKL and the transposed weight on processors of Intel. Laying them out
    costs about as much as one product with as many rows as the weight has columns, so this is for the many small
    products of decoding: 1.1 to 1.2 times as fast for 64 to 320 rows, and several times for one to five rows and a
    large vocabulary. Only products without gradients take part, in this thread and for float32 weights on a
    CPU; elsewhere nothing changes. The copies take the memory of the weights until the context is left; the weights
    must not change meanwhile.

    Args:
        modules: whose maps, their submodules' too.

    Example:
        >>> network, x = nn.Sequential(Linear(512, 2048), nn.ReLU(), Linear(2048, 8)), torch.randn(3, 512)
        >>> with torch.inference_mode():
        ...     expected = network(x)
        ...     with packed(network):
        ...         found = network(x)
        >>> torch.allclose(found, expected, atol=1e-5)
        True
    """
    weights = [
        each.weight
        for module in modules
        for each in module.modules()
        if isinstance(each, Linear) and each.weight.device.type == "cpu" and each.weight.dtype == torch.float32
    ]
    if not _AVAILABLE or torch.compiler.is_compiling() or not torch._C._get_mkldnn_enabled():
        weights = []
    with torch.no_grad():
        found = {id(w): (w, _laid_out(w)) for w in weights if type(w) is nn.Parameter}
    token = _PACKED.set({**(_PACKED.get() or {}), **found})
    try:
        yield
    finally:
        _PACKED.reset(token)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: Activation | None = None) -> Tensor:
    """``F.linear(x, weight, bias)``, and behind it an activation, by whatever computes it fastest.

    Large float32 products on a CPU go to oneDNN: 5 to 19 % sooner than by default on an AMD EPYC with AVX-512, and as
    soon elsewhere. Gradients of gradients, ``torch.compile``, ``torch.export``, autocast and ``torch.func`` all see
    plain torch.

    Args:
        x: (…, D).
        weight: (R, D).
        bias: (R,).
        activation: "relu" or "gelu" (the exact one), applied while the result is in the registers.

    Example:
        >>> x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
        >>> torch.equal(linear(x, weight, activation="relu"), F.linear(x, weight).relu())
        True
    """
    if is_shared(weight, x):
        product = shared_product(x.reshape(-1, x.size(-1)), weight, bias, transposed=True)
        return _activated(product.view(*x.shape[:-1], -1), activation)
    if not _takes_part(x, weight):
        return _activated(F.linear(x, weight, bias), activation)
    copy = _packed_copy(weight)
    if copy is not None and not copy.is_mkldnn:
        return _activated(_transposed(x, copy, bias), activation)
    if x.numel() * weight.size(0) < (WORTHWHILE if copy is None else WORTHWHILE_PACKED):
        return _activated(F.linear(x, weight, bias), activation)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _activated(_OneDNNLinear.apply(x, weight, bias), activation)
    return _onednn(x, weight, bias, activation)


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` through :func:`linear`: the same parameters and results.

    Example:
        >>> Linear(4, 5)(torch.randn(2, 3, 4)).shape
        torch.Size([2, 3, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, R)."""
        return linear(x, self.weight, self.bias)


def _takes_part(x: Tensor, weight: Tensor) -> bool:
    return (
        _AVAILABLE
        and runs_as_it_stands(x)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and torch._C._get_mkldnn_enabled()
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation | None = None) -> Tensor:
    algorithm = "none" if activation == "gelu" else ""
    copy = _packed_copy(weight)
    weight = weight if copy is None else copy
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation or "none", [], algorithm)


@cache
def _mkl_is_at_home() -> bool:
    """On Intel's processors MKL is the faster one for few rows, if it finds the weight as (D, R)."""
    try:
        return torch._C.has_mkl and "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _laid_out(weight: Tensor) -> Tensor:
    if _mkl_is_at_home():
        return weight.detach().t().contiguous()
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.size(-1))
    product = torch.mm(rows, weight) if bias is None else torch.addmm(bias, rows, weight)
    return product.view(*x.shape[:-1], weight.size(1))


def _packed_copy(weight: Tensor) -> Tensor | None:
    copies = _PACKED.get()
    if not copies or torch.is_grad_enabled():
        return None
    _, copy = copies.get(id(weight), (None, None))
    return copy


def _activated(x: Tensor, activation: Activation | None) -> Tensor:
    if activation is None:
        return x
    if torch.is_grad_enabled() and x.requires_grad:
        return F.relu(x) if activation == "relu" else F.gelu(x)
    # The widest tensor of a Transformer: overwritten rather than written again, where no gradient wants it.
    return x.relu_() if activation == "relu" else torch.ops.aten.gelu_(x)


class _OneDNNLinear(Function):
    """The map with gradients; that of the weight stays with the default library, which is faster there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            # With gradients on, somebody wants gradients of these.
            of_x = upstream @ weight if torch.is_grad_enabled() else _onednn(upstream, weight.t(), None)
        rows = upstream.reshape(-1, upstream.size(-1))
        if ctx.needs_input_grad[1]:
            of_weight = rows.t() @ x.reshape(-1, x.size(-1))
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(dim=0)
        return of_x, of_weight, of_bias
