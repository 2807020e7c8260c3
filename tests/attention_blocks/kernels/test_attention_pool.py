from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from attention_blocks.kernels.attention_pool import attention_pool


def _inputs(layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64).contiguous(memory_format=layout)
    weight, bias = torch.randn(5, dtype=torch.float64), torch.randn(1, dtype=torch.float64)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def _formula(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    weights = (torch.einsum("bchw,c->bhw", x, weight) + bias).flatten(1).softmax(1)
    return torch.einsum("bcp,bp->bc", x.flatten(2), weights), weights


layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


@layouts
def test_equals_the_equation(layout: torch.memory_format) -> None:
    x, weight, bias = _inputs(layout)
    scores = torch.einsum("bchw,c->bhw", x, weight) + bias
    wanted = scores.flatten(1).exp() / scores.flatten(1).exp().sum(1, keepdim=True)
    context, weights = attention_pool(x, weight, bias)
    torch.testing.assert_close(weights, wanted)
    torch.testing.assert_close(context, torch.einsum("bchw,bhw->bc", x, wanted.view(2, 4, 3)))
    with torch.no_grad():
        torch.testing.assert_close(attention_pool(x, weight, bias), (context, weights))


@layouts
def test_gradients(layout: torch.memory_format) -> None:
    inputs = _inputs(layout)
    assert torch.autograd.gradcheck(attention_pool, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(attention_pool, inputs, check_fwd_over_rev=True)


@layouts
def test_batched_gradients(layout: torch.memory_format) -> None:
    """As of ``torch.autograd.functional.jacobian(vectorize=True)``."""
    inputs, upstream = _inputs(layout), torch.randn(6, 2, 5, dtype=torch.float64)
    found, wanted = (
        torch.autograd.grad(pool(*inputs)[0], inputs[:2], upstream, is_grads_batched=True)
        for pool in (attention_pool, _formula)
    )
    torch.testing.assert_close(found, wanted)


@layouts
def test_the_gradient_has_the_memory_layout_of_the_feature_map(layout: torch.memory_format) -> None:
    x, weight, bias = _inputs(layout)
    context, _ = attention_pool(x, weight, bias)
    (gradient,) = torch.autograd.grad(context.square().sum(), x)
    assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_inputs_get_no_gradient(frozen: int) -> None:
    inputs = _inputs(torch.contiguous_format)
    inputs[frozen].requires_grad_(False)
    others = [each for each in inputs if each.requires_grad]
    found, wanted = (
        torch.autograd.grad(torch.cat([part.pow(3) for part in pool(*inputs)], dim=1).sum(), others)
        for pool in (attention_pool, _formula)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("axes", [(0, 0, 0), (1, None, None), (None, 1, None), (4, 0, 0), (0, None, 0)], ids=str)
def test_vmap(axes: tuple[int | None, ...]) -> None:
    batched = [
        x.detach() if axis is None else torch.stack([x.detach(), x.detach() + 1, 2 * x.detach()], dim=axis)
        for x, axis in zip(_inputs(torch.contiguous_format), axes, strict=True)
    ]
    for requires_grad in (False, True):
        [x.requires_grad_(requires_grad) for x in batched]
        found = torch.func.vmap(attention_pool, axes)(*batched)
        for sample in range(3):
            alone = [x if axis is None else x.select(axis, sample) for x, axis in zip(batched, axes, strict=True)]
            torch.testing.assert_close(tuple(part[sample] for part in found), _formula(*alone))


@layouts
def test_transforms_equal_those_of_the_formula(layout: torch.memory_format) -> None:
    x, weight, bias = (each.detach() for each in _inputs(layout))

    def transformed(pool: Callable[..., tuple[Tensor, Tensor]]) -> list[object]:
        def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            context, weights = pool(x[None], weight, bias)
            return context.square().sum() + weights.pow(3).sum()

        per_sample = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), (0, None, None))
        return [
            per_sample(x, weight, bias),
            torch.func.jvp(pool, (x, weight, bias), (x.flip(1), weight.flip(0), bias)),
            torch.func.jacrev(pool, argnums=(0, 1, 2))(x, weight, bias),
            torch.func.jacfwd(pool, argnums=(0, 1, 2))(x, weight, bias),
            torch.func.hessian(loss, argnums=(0, 1))(x[0], weight, bias),
        ]

    torch.testing.assert_close(transformed(attention_pool), transformed(_formula))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_traced_by_make_fx(mode: Literal["real", "fake", "symbolic"]) -> None:
    inputs = _inputs(torch.contiguous_format)
    traced = make_fx(lambda *x: attention_pool(*x), tracing_mode=mode)(*inputs)
    torch.testing.assert_close(traced(*inputs), _formula(*inputs))
