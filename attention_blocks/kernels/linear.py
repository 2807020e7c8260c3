"""Linear layers with the library and weight layout that are fastest on the CPU."""

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

from attention_blocks.kernels.eager import is_eager
from attention_blocks.kernels.unrolled import is_shared, shared_product

Activation = Literal["relu", "gelu"]

# torch multiplies float32 matrices on CPUs by MKL, which does not use AVX-512 on AMD processors; oneDNN does. The
# operation is the one that torch.compile emits for linear layers on CPUs.
_AVAILABLE = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")

# Smallest products, in multiplications, for which oneDNN pays off despite its overhead; less overhead if packed.
MIN_SIZE, MIN_SIZE_PACKED = 2**24, 2**19

# By the id of a weight: the weight itself, which keeps the id from being reused, and its packed copy.
_PACKED: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("packed weights", default=None)


@contextmanager
def packed(*modules: nn.Module) -> Iterator[None]:
    """Context in which the :class:`Linear` layers of the modules use packed copies of their weights.

    For many small products with the same weights, as in decoding. The weights are packed for oneDNN, or transposed for
    MKL on Intel processors. This applies to products without gradients, in this thread, with float32 weights on a CPU;
    elsewhere nothing changes. The copies need as much memory as the weights, until the context is left. Do not change
    the weights meanwhile.

    Args:
        modules: modules whose layers, and those of their submodules, use packed weights.

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
        found = {id(w): (w, _pack(w)) for w in weights if type(w) is nn.Parameter}
    token = _PACKED.set({**(_PACKED.get() or {}), **found})
    try:
        yield
    finally:
        _PACKED.reset(token)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: Activation | None = None) -> Tensor:
    """``F.linear(x, weight, bias)``, optionally followed by an activation, with the fastest library.

    Large float32 products on a CPU use oneDNN. Gradients of gradients, ``torch.compile``, ``torch.export``, autocast
    and ``torch.func`` see torch's own operations.

    Args:
        x: (…, D).
        weight: (R, D).
        bias: (R,).
        activation: "relu" or "gelu" (the exact one), fused with the product where possible.

    Returns:
        (…, R).

    Example:
        >>> x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
        >>> torch.equal(linear(x, weight, activation="relu"), F.linear(x, weight).relu())
        True
    """
    if is_shared(weight, x):
        product = shared_product(x.reshape(-1, x.size(-1)), weight, bias, transposed=True)
        return _activated(product.view(*x.shape[:-1], -1), activation)
    if not _is_supported(x, weight):
        return _activated(F.linear(x, weight, bias), activation)
    copy = _packed_copy(weight)
    if copy is not None and not copy.is_mkldnn:
        return _activated(_transposed(x, copy, bias), activation)
    if x.numel() * weight.size(0) < (MIN_SIZE if copy is None else MIN_SIZE_PACKED):
        return _activated(F.linear(x, weight, bias), activation)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _activated(_OneDNNLinear.apply(x, weight, bias), activation)
    return _onednn(x, weight, bias, activation)


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` computed by :func:`linear`, with the same parameters and results.

    Example:
        >>> Linear(4, 5)(torch.randn(2, 3, 4)).shape
        torch.Size([2, 3, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x: (…, D).

        Returns:
            (…, R).
        """
        return linear(x, self.weight, self.bias)


def _is_supported(x: Tensor, weight: Tensor) -> bool:
    return (
        _AVAILABLE
        and is_eager(x)
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
def _prefers_mkl() -> bool:
    """Whether the processor is from Intel, where MKL is faster for few rows if the weight is stored as (D, R)."""
    try:
        return torch._C.has_mkl and "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _pack(weight: Tensor) -> Tensor:
    if _prefers_mkl():
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
    # The widest tensor of a Transformer; in place where no gradient needs it.
    return x.relu_() if activation == "relu" else torch.ops.aten.gelu_(x)


class _OneDNNLinear(Function):
    """The layer with gradients; that of the weight uses the default library, which is faster there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            # With gradients enabled, gradients of gradients are wanted.
            grad_x = grad @ weight if torch.is_grad_enabled() else _onednn(grad, weight.t(), None)
        rows = grad.reshape(-1, grad.size(-1))
        if ctx.needs_input_grad[1]:
            grad_weight = rows.t() @ x.reshape(-1, x.size(-1))
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(dim=0)
        return grad_x, grad_weight, grad_bias
