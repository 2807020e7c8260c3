from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attention_blocks.kernels.attention_pool import attention_pool


def _inputs(layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64).contiguous(memory_format=layout)
    weight, bias = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, dtype=torch.float64)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


@layouts
def test_equals_the_equation(layout: torch.memory_format) -> None:
    x, weight, bias = _inputs(layout)
    scores = torch.einsum("bchw,c->bhw", x, weight[0]) + bias
    wanted = scores.flatten(1).exp() / scores.flatten(1).exp().sum(1, keepdim=True)
    context, weights = attention_pool(x, weight, bias)
    torch.testing.assert_close(weights, wanted)
    torch.testing.assert_close(context, torch.einsum("bchw,bhw->bc", x, wanted.view(2, 4, 3)))
    with torch.no_grad():
        torch.testing.assert_close(attention_pool(x, weight, bias), (context, weights))


@layouts
def test_gradients(layout: torch.memory_format) -> None:
    inputs = _inputs(layout)
    assert torch.autograd.gradcheck(attention_pool, inputs)
    assert torch.autograd.gradgradcheck(attention_pool, inputs)


@layouts
def test_the_gradient_has_the_memory_layout_of_the_feature_map(layout: torch.memory_format) -> None:
    x, weight, bias = _inputs(layout)
    context, _ = attention_pool(x, weight, bias)
    (gradient,) = torch.autograd.grad(context.square().sum(), x)
    assert gradient.is_contiguous(memory_format=layout)
