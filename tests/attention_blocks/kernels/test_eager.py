from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import export

from attention_blocks.kernels.eager import is_eager


class Told(nn.Module):
    """Adds 1 in eager mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (1 if is_eager(x) else 0)


def _compiled(x: Tensor) -> Tensor:
    torch._dynamo.reset()
    return torch.compile(Told(), backend="eager", fullgraph=True)(x)


def _exported(x: Tensor) -> Tensor:
    return export(Told(), (x,)).module()(x)


def _autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return Told()(x)


def _forward_mode(x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        return Told()(x)


def _mapped(x: Tensor) -> Tensor:
    return torch.func.vmap(Told())(x)


@pytest.mark.parametrize("watched", [_compiled, _exported, _autocast, _forward_mode, _mapped])
def test_knows_when_it_is_transformed(watched: Callable[[Tensor], Tensor]) -> None:
    assert torch.equal(watched(torch.zeros(2)), torch.zeros(2))
    assert torch.equal(Told()(torch.zeros(2)), torch.ones(2))
    assert torch.equal(Told()(nn.Parameter(torch.zeros(2))), torch.ones(2))
